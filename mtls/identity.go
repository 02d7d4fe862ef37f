package mtls

import (
	"crypto/x509"
	"fmt"
	"regexp"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/weft-mesh/weft/internal/model"
)

// maxIDLength is the longest SPIFFE ID in bytes (SPIFFE-ID.md, 2.3).
const maxIDLength = 2048

// Names as Kubernetes has them (RFC 1123): a namespace is a label, a service account a subdomain.
var (
	namespaceName      = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	serviceAccountName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
)

// ParseIdentity checks that an identity has the form spiffe://<trust domain>/ns/<namespace>/sa/<service account> and
// belongs to the trust domain.
func ParseIdentity(trustDomain string, id model.Identity) (namespace, serviceAccount string, err error) {
	_, namespace, serviceAccount, err = parseIdentity(trustDomain, id)
	return namespace, serviceAccount, err
}

func parseIdentity(trustDomain string, id model.Identity) (parsed spiffeid.ID, namespace, serviceAccount string, err error) {
	fail := func(format string, args ...any) (spiffeid.ID, string, string, error) {
		return spiffeid.ID{}, "", "", fmt.Errorf("identity %.200q: "+format, append([]any{string(id)}, args...)...)
	}
	if len(id) > maxIDLength {
		return fail("longer than %d bytes", maxIDLength)
	}
	parsed, err = spiffeid.FromString(string(id))
	if err != nil {
		return fail("%w", err)
	}
	if parsed.TrustDomain().Name() != trustDomain {
		return fail("not of the trust domain %s", trustDomain)
	}
	// A trust domain in capitals is accepted above and would not compare equal byte by byte.
	if parsed.String() != string(id) {
		return fail("not in its normal form %s", parsed)
	}
	parts := strings.Split(parsed.Path(), "/")
	if len(parts) != 5 || parts[1] != "ns" || parts[3] != "sa" {
		return fail("its path is not /ns/<namespace>/sa/<service account>")
	}
	if !namespaceName.MatchString(parts[2]) {
		return fail("%q is no name of a namespace", parts[2])
	}
	if len(parts[4]) > 253 || !serviceAccountName.MatchString(parts[4]) {
		return fail("%q is no name of a service account", parts[4])
	}
	return parsed, parts[2], parts[4], nil
}

// isOf reports whether the certificate of a CA belongs to a trust domain: its only URI is the domain's SPIFFE ID, which has
// no path (https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md).
func isOf(ca *x509.Certificate, td string) bool {
	if len(ca.URIs) != 1 {
		return false
	}
	id, err := spiffeid.FromURI(ca.URIs[0])
	return err == nil && id.Path() == "" && id.TrustDomain().Name() == td
}
