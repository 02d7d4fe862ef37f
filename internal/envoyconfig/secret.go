package envoyconfig

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"time"
)

// Secret is a certificate with its key, what certificates of peers are checked with, or the value of a header.
type Secret struct {
	Resource
	// Kind is certificate, validation or header.
	Kind string
	// Names are a certificate's, or the trust domains that a validation has; NotAfter is the first certificate's.
	Names    []string
	NotAfter time.Time
}

type secretState struct {
	stamp
	Name   string          `json:"name"`
	Secret json.RawMessage `json:"secret"`
}

// source is envoy.config.core.v3.DataSource.
type source struct {
	Bytes  []byte `json:"inline_bytes"`
	String string `json:"inline_string"`
}

func (c *Config) addSecret(s secretState, state State) error {
	var v struct {
		Certificate *struct {
			Chain source `json:"certificate_chain"`
		} `json:"tls_certificate"`
		Validation *struct {
			CA     source `json:"trusted_ca"`
			Custom struct {
				Config struct {
					Domains []struct {
						Name   string `json:"name"`
						Bundle source `json:"trust_bundle"`
					} `json:"trust_domains"`
				} `json:"typed_config"`
			} `json:"custom_validator_config"`
		} `json:"validation_context"`
		Header *struct{} `json:"generic_secret"` // Envoy prints no value
	}
	if err := json.Unmarshal(s.Secret, &v); err != nil {
		return fmt.Errorf("secret %s: %w", s.Name, err)
	}
	out := Secret{Resource: s.resource(state, s.Name, s.Secret)}
	switch {
	case v.Certificate != nil:
		out.Kind = "certificate"
		if cert := v.Certificate.Chain.first(); cert != nil {
			out.NotAfter = cert.NotAfter
			out.Names = cert.DNSNames
			for _, u := range cert.URIs {
				out.Names = append(out.Names, u.String())
			}
		}
	case v.Header != nil:
		out.Kind = "header"
	case v.Validation != nil:
		out.Kind = "validation"
		if cert := v.Validation.CA.first(); cert != nil {
			out.NotAfter = cert.NotAfter
		}
		for _, d := range v.Validation.Custom.Config.Domains {
			out.Names = append(out.Names, d.Name)
			if cert := d.Bundle.first(); cert != nil && (out.NotAfter.IsZero() || cert.NotAfter.Before(out.NotAfter)) {
				out.NotAfter = cert.NotAfter
			}
		}
	}
	c.Secrets = append(c.Secrets, out)
	return nil
}

// first returns the first certificate of PEM; nil if there is none that can be read.
func (s source) first() *x509.Certificate {
	text := s.Bytes
	if s.String != "" {
		text = []byte(s.String)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return cert
}
