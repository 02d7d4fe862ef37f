package flowexport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"google.golang.org/grpc/credentials"
)

// TLS says how a collector is connected to by TLS. Files are read anew for each connection, so that they may be replaced.
type TLS struct {
	CA string // file with the roots that a collector's certificate must come from, as PEM
	// ServerName is what the certificate must be for; "" is NAME.NAMESPACE.svc of the Service.
	ServerName string
	// Cert and Key are files with this client's certificate and its key, as PEM; both "" for none.
	Cert, Key string
}

// Check returns an error if what is given does not belong together. It reads no file.
func (t *TLS) Check() error {
	switch {
	case t.CA == "" && (t.ServerName != "" || t.Cert != "" || t.Key != ""):
		return errors.New("a server name or a client certificate needs the file of the collector's CA")
	case (t.Cert == "") != (t.Key == ""):
		return errors.New("a client certificate needs its key, and a key its certificate")
	}
	return nil
}

func (t *TLS) config(serverName string) (*tls.Config, error) {
	roots, err := os.ReadFile(t.CA)
	if err != nil {
		return nil, fmt.Errorf("roots of the collector: %w", err)
	}
	out := &tls.Config{ServerName: serverName, RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	if !out.RootCAs.AppendCertsFromPEM(roots) {
		return nil, fmt.Errorf("roots of the collector: %s has no certificate in PEM", t.CA)
	}
	if t.Cert == "" {
		return out, nil
	}
	own, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("certificate for the collector: %w", err)
	}
	out.Certificates = []tls.Certificate{own}
	return out, nil
}

// reloading is TLS for gRPC whose files are read at each handshake.
type reloading struct {
	tls        TLS
	serverName string
}

// ClientHandshake implements credentials.TransportCredentials.
func (r *reloading) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	config, err := r.tls.config(r.serverName)
	if err != nil {
		return nil, nil, err
	}
	return credentials.NewTLS(config).ClientHandshake(ctx, authority, conn)
}

// ServerHandshake implements credentials.TransportCredentials.
func (r *reloading) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these are a client's credentials")
}

// Info implements credentials.TransportCredentials.
func (r *reloading) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements credentials.TransportCredentials.
func (r *reloading) Clone() credentials.TransportCredentials {
	out := *r
	return &out
}

// OverrideServerName implements credentials.TransportCredentials.
func (r *reloading) OverrideServerName(name string) error {
	r.serverName = name
	return nil
}
