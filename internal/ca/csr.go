package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/mtls"
)

// wish is what a CSR asks for.
type wish struct {
	id                        model.Identity
	namespace, serviceAccount string
	public                    *ecdsa.PublicKey
}

// parseRequest reads the body of a request.
func parseRequest(body []byte) (*mtls.SignRequest, error) {
	var r mtls.SignRequest
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, fmt.Errorf("the request is not understood: %w", err)
	}
	if len(r.CSRs) == 0 || len(r.CSRs) > mtls.MaxBatch {
		return nil, fmt.Errorf("%d CSRs: from 1 to %d are possible", len(r.CSRs), mtls.MaxBatch)
	}
	return &r, nil
}

// parseCSR takes the key and the SPIFFE ID of a CSR in DER that its key has signed. Another name in it is an error, for
// who sends one expects more than there is; its subject and extensions are not looked at.
func parseCSR(td string, der []byte) (*wish, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("CSR: %w", err)
	}
	public, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return nil, errors.New("CSR: its key is not ECDSA on P-256")
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("CSR: its key has not signed it: %w", err)
	}
	if len(csr.URIs) != 1 || len(csr.DNSNames)+len(csr.IPAddresses)+len(csr.EmailAddresses) > 0 {
		return nil, errors.New("CSR: its names are not one SPIFFE ID and nothing else")
	}
	w := &wish{id: model.Identity(csr.URIs[0].String()), public: public}
	if w.namespace, w.serviceAccount, err = mtls.ParseIdentity(td, w.id); err != nil {
		return nil, fmt.Errorf("CSR: %w", err)
	}
	return w, nil
}
