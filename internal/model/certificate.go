package model

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
)

// FirstCertificate reads the first certificate of a chain as PEM, and gives what follows it; nothing follows what is no PEM.
func FirstCertificate(chain []byte) (c *x509.Certificate, rest []byte, err error) {
	block, rest := pem.Decode(chain)
	if block == nil {
		return nil, nil, errors.New("holds no PEM block")
	}
	c, err = x509.ParseCertificate(block.Bytes)
	return c, rest, err
}
