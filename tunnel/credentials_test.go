package tunnel

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

const testDomain = "td"

// authority signs certificates of a test.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Minute),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = a.sign(template, template, nil)
	return a
}

func (a *authority) sign(template, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	if by == nil {
		by = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// credentials are those of the holder of some URIs, which trusts this authority.
func (a *authority) credentials(change func(*x509.Certificate), uris ...string) credentials {
	a.t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
	}
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			a.t.Fatal(err)
		}
		template.URIs = append(template.URIs, u)
	}
	if change != nil {
		change(template)
	}
	cert, key := a.sign(template, a.cert, a.key)
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	return credentials{
		certificate: &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, roots: roots, trustDomain: testDomain,
	}
}

// handshake joins two ends, and gives their sessions.
func handshake(t testing.TB, client, server *tls.Config) (c, s *secured, clientErr, serverErr error) {
	t.Helper()
	a, b := tcpPair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s, serverErr = secure(t.Context(), b, server, false, newTurns())
	}()
	if c, clientErr = secure(t.Context(), a, client, true, newTurns()); clientErr == nil {
		// In TLS 1.3 a client hears of the server's refusal only when it reads.
		_ = a.SetReadDeadline(time.Now().Add(20 * time.Second))
	}
	<-done
	return c, s, clientErr, serverErr
}

func TestBothEndsAreVerified(t *testing.T) {
	const alice, bob = "spiffe://td/ns/x/sa/alice", "spiffe://td/ns/x/sa/bob"
	ca, other := newAuthority(t), newAuthority(t)
	for _, tt := range []struct {
		name           string
		client, server credentials
		expects        model.Identity
		clientErr      string // part of the error that the client sees in its handshake
		serverErr      string
	}{
		{"as expected", ca.credentials(nil, alice), ca.credentials(nil, bob), bob, "", ""},
		{"another server", ca.credentials(nil, alice), ca.credentials(nil, alice), bob, "was expected", "bad certificate"},
		{"a server of another CA", ca.credentials(nil, alice), other.credentials(nil, bob), bob, "unknown authority", "bad certificate"},
		{"a client of another CA", other.credentials(nil, alice), ca.credentials(nil, bob), bob, "unknown authority", "bad certificate"},
		{"a client of another trust domain", ca.credentials(nil, "spiffe://evil/ns/x/sa/alice"), ca.credentials(nil, bob), bob, "", "trust domain"},
		{"a trust domain that starts the same", ca.credentials(nil, "spiffe://td.evil/ns/x/sa/alice"), ca.credentials(nil, bob), bob, "", "trust domain"},
		{"a client without a SPIFFE ID", ca.credentials(nil), ca.credentials(nil, bob), bob, "", "0 URIs"},
		{"a client with two", ca.credentials(nil, alice, bob), ca.credentials(nil, bob), bob, "", "2 URIs"},
		{"a comma in the ID", ca.credentials(nil, alice+",spiffe://td/ns/x/sa/carol"), ca.credentials(nil, bob), bob, "", "no SPIFFE ID"},
		{"a zero byte in the ID", ca.credentials(nil, alice+"%00"), ca.credentials(nil, bob), bob, "", "no SPIFFE ID"},
		{"a slash that is escaped", ca.credentials(nil, "spiffe://td/ns/x%2Fsa/alice"), ca.credentials(nil, bob), bob, "", "no SPIFFE ID"},
		{"a query in the ID", ca.credentials(nil, alice+"?x"), ca.credentials(nil, bob), bob, "", "no SPIFFE ID"},
		{"an empty query in the ID", ca.credentials(nil, alice+"?"), ca.credentials(nil, bob), bob, "", "no SPIFFE ID"},
		{"a fragment in the ID", ca.credentials(nil, alice+"#x"), ca.credentials(nil, bob), bob, "", "no SPIFFE ID"},
		{"an empty fragment in the ID", ca.credentials(withURI(t, alice+"#")), ca.credentials(nil, bob), bob, "", "no SPIFFE ID"},
		{"dots in the ID", ca.credentials(nil, "spiffe://td/ns/y/../x/sa/alice"), ca.credentials(nil, bob), bob, "", "no SPIFFE ID"},
		{"an empty segment of the ID", ca.credentials(nil, "spiffe://td/ns//x/sa/alice"), ca.credentials(nil, bob), bob, "", "no SPIFFE ID"},
		{"a client's certificate for servers", ca.credentials(forUse(x509.ExtKeyUsageServerAuth), alice), ca.credentials(nil, bob), bob, "", "incompatible key usage"},
		{"a server's certificate for clients", ca.credentials(nil, alice), ca.credentials(forUse(x509.ExtKeyUsageClientAuth), bob), bob,
			"incompatible key usage", "bad certificate"},
		{"certificates for both", ca.credentials(forUse(x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth), alice),
			ca.credentials(forUse(x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth), bob), bob, "", ""},
		{"a client that is an authority", ca.credentials(func(c *x509.Certificate) { c.IsCA = true }, alice), ca.credentials(nil, bob), bob, "", "authority's"},
		{"a certificate that has expired", ca.credentials(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }, alice),
			ca.credentials(nil, bob), bob, "", "expired"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, s, clientErr, serverErr := handshake(t, tt.client.dialling(tt.expects), tt.server.accepting())
			for _, e := range []struct {
				who, want string
				err       error
			}{{"client", tt.clientErr, clientErr}, {"server", tt.serverErr, serverErr}} {
				if (e.err == nil) != (e.want == "") || e.err != nil && !strings.Contains(e.err.Error(), e.want) {
					t.Errorf("the %s's error is %v, want %q", e.who, e.err, e.want)
				}
			}
			if serverErr == nil && peerIdentity(s.ConnectionState()) != alice {
				t.Errorf("the server takes the client for %s", peerIdentity(s.ConnectionState()))
			}
		})
	}
}

// withURI gives a certificate a URI in just these bytes: a url.URL does not keep an empty fragment.
func withURI(t *testing.T, uri string) func(*x509.Certificate) {
	t.Helper()
	const kind = 6 // of a GeneralName, RFC 5280 4.2.1.6
	names, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: kind, Bytes: []byte(uri)}})
	if err != nil {
		t.Fatal(err)
	}
	return func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: names}}
	}
}

func forUse(all ...x509.ExtKeyUsage) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.ExtKeyUsage = all }
}

// An outsider makes neither end check more signatures, nor parse more certificates, than the mesh's own chains take.
func TestChainsAreBounded(t *testing.T) {
	const alice, bob = "spiffe://td/ns/x/sa/alice", "spiffe://td/ns/x/sa/bob"
	ca := newAuthority(t)
	chain := func(id string, n int) credentials {
		c := ca.credentials(nil, id)
		for range n - 1 {
			c.certificate.Certificate = append(c.certificate.Certificate, newAuthority(t).cert.Raw)
		}
		return c
	}
	for _, tt := range []struct {
		name           string
		client, server int // certificates
		clientErr      string
		serverErr      string
	}{
		{"as many as may be", maxChain, maxChain, "", ""},
		{"one more of the client", maxChain + 1, 1, "", "a chain of 5 certificates"},
		{"one more of the server", 1, maxChain + 1, "a chain of 5 certificates", "bad certificate"},
		{"more than a handshake takes", 200, 1, "", "more than 32768 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, clientErr, serverErr := handshake(t, chain(alice, tt.client).dialling(bob), chain(bob, tt.server).accepting())
			for _, e := range []struct {
				who, want string
				err       error
			}{{"client", tt.clientErr, clientErr}, {"server", tt.serverErr, serverErr}} {
				if (e.err == nil) != (e.want == "") || e.err != nil && !strings.Contains(e.err.Error(), e.want) {
					t.Errorf("the %s's error is %v, want %q", e.who, e.err, e.want)
				}
			}
		})
	}
}

// Who speaks another protocol in TLS is no peer, with a good certificate neither.
func TestProtocolIsAskedFor(t *testing.T) {
	ca := newAuthority(t)
	client := ca.credentials(nil, "spiffe://td/ns/x/sa/alice").dialling("spiffe://td/ns/x/sa/bob")
	client.NextProtos = []string{"h2"}
	_, _, clientErr, serverErr := handshake(t, client, ca.credentials(nil, "spiffe://td/ns/x/sa/bob").accepting())
	if clientErr == nil || serverErr == nil {
		t.Errorf("errors %v and %v", clientErr, serverErr)
	}
}

// A session over TLS carries what one without it does.
func TestSecuredSession(t *testing.T) {
	ca := newAuthority(t)
	c, s, clientErr, serverErr := handshake(t, ca.credentials(nil, "spiffe://td/ns/x/sa/alice").dialling("spiffe://td/ns/x/sa/bob"),
		ca.credentials(nil, "spiffe://td/ns/x/sa/bob").accepting())
	if clientErr != nil || serverErr != nil {
		t.Fatal(clientErr, serverErr)
	}
	_ = c.records.SetReadDeadline(time.Time{})
	server, far := application(t)
	dialled, accepted := newSession(c, netip.Addr{}), newSession(s, netip.Addr{})
	accepted.accept = func(s *session, id uint32, _ opening) {
		s.mu.Lock()
		st := newStream(s, id, far)
		s.streams[id] = st
		s.mu.Unlock()
		go st.pump()
	}
	for _, x := range []*session{dialled, accepted} {
		go func() { _ = x.run() }()
		t.Cleanup(func() { x.end(errClosed) })
	}
	client := stream1(t, dialled)
	transfer(t, client, server, 20<<20)
	transfer(t, server, client, 20<<20)
}
