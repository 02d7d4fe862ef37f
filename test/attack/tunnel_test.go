package attack

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// tunnelMemory bounds weft tunnel's memory under attack, in MB.
const tunnelMemory = 400

// stolen is a certificate of mallory, as root on its node has it: a file with the chain and the key.
func (a *arena) stolen(t *testing.T) string {
	t.Helper()
	ca, by := a.authority(t)
	cert, err := sign(mallory, ca, by)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...)
	file := filepath.Join(t.TempDir(), "mallory.pem")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// sign makes a certificate of an identity; with a parent of nil it signs itself.
func sign(identity string, parent *x509.Certificate, by crypto.PrivateKey) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	id, err := url.Parse(identity)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, URIs: []*url.URL{id}, BasicConstraintsValid: true,
	}
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// sessionsSpec opens sessions of weft tunnel. Certificate is a file; "" is a certificate of the attacker's own.
type sessionsSpec struct {
	To          netip.AddrPort
	Certificate string
	Identity    string // that a certificate of the attacker's own claims
	Chain       int    // certificates of authorities that are shown besides; none of them has signed anything
	Many        int
	Pace        time.Duration // between two sessions: a pod takes 40 connections a second of a stranger
	Hold        time.Duration
}

// strangersPace keeps a stranger below what the kernel lets in.
const strangersPace = 25 * time.Millisecond

func (s *sessionsSpec) certificate() (tls.Certificate, error) {
	if s.Certificate != "" {
		return tls.LoadX509KeyPair(s.Certificate, s.Certificate)
	}
	cert, err := sign(s.Identity, nil, nil)
	for i := 0; i < s.Chain && err == nil; i++ {
		var der []byte
		der, err = pretender()
		cert.Certificate = append(cert.Certificate, der)
	}
	return cert, err
}

// pretender makes a certificate of an authority that may have signed those of sign, for all that its name says. Its key is of the
// kind whose signatures take the longest to check.
func pretender() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
	return x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
}

// errUnreached is that no handshake was begun.
var errUnreached = errors.New("no connection")

// session opens a session and waits until the other end has taken it: in TLS 1.3 a client hears of a refusal later.
func (s *sessionsSpec) session(cert tls.Certificate) (*tls.Conn, error) {
	c, err := net.DialTimeout("tcp", s.To.String(), 5*time.Second)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreached, err)
	}
	t := tls.Client(c, &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"weft-tunnel/1"}, Certificates: []tls.Certificate{cert},
		InsecureSkipVerify: true, // the attacker does not care
	})
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		c.Close()
		return nil, err
	}
	_ = t.SetDeadline(time.Now().Add(5 * time.Second))
	pong := make([]byte, 8)
	if _, err = t.Write(appendFrame(nil, 0, 6, 7)); err == nil {
		_, err = io.ReadFull(t, pong)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	_ = t.SetDeadline(time.Time{})
	return t, nil
}

// appendFrame appends a header of weft tunnel's protocol: 1 opens, 2 is data, 3 FIN, 4 reset, 5 a window, 6 a ping.
func appendFrame(b []byte, stream uint32, kind byte, value int) []byte {
	b = binary.BigEndian.AppendUint32(b, stream)
	return binary.BigEndian.AppendUint32(b, uint32(kind)<<24|uint32(value))
}

func openSessions(s sessionsSpec) (r report, err error) {
	cert, err := s.certificate()
	if err != nil {
		return r, err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, 32)
	for range s.Many {
		slots <- struct{}{}
		time.Sleep(s.Pace)
		wg.Go(func() {
			defer func() { <-slots }()
			c, err := s.session(cert)
			mu.Lock()
			defer mu.Unlock()
			if !errors.Is(err, errUnreached) {
				r.Reached++
			}
			if err != nil {
				r.Refused++
				if len(r.Errors) < 3 {
					r.Errors = append(r.Errors, err.Error())
				}
				return
			}
			r.Done++
			go func() { _, _ = io.Copy(io.Discard, c) }()
		})
	}
	wg.Wait()
	time.Sleep(s.Hold)
	return r, nil
}

// strangers: only a certificate of the mesh's authority opens a session, whatever another one says.
func strangers(t *testing.T, a *arena) string {
	n := 0
	for _, id := range []string{"spiffe://cluster.local/ns/bank/sa/client", "spiffe://elsewhere/ns/bank/sa/client"} {
		// Of a pod without an identity: what mallory sends to the port is taken over at connect, and never gets there.
		r := from(t, a.outsider, "sessions", sessionsSpec{
			To: netip.AddrPortFrom(a.server.Address, model.PortTunnel), Identity: id, Many: 20, Pace: strangersPace,
		}).wait()
		if r.Done > 0 {
			t.Errorf("%d sessions of a stranger that says that it is %s", r.Done, id)
		}
		if r.Reached < 15 {
			t.Errorf("%d of 20 handshakes came to weft tunnel: %v", r.Reached, r.Errors)
		}
		n += r.Reached
	}
	return fmt.Sprintf("%d handshakes refused", n)
}

// longChains: certificates that nobody has signed, in chains that take long to check, hold up no pod's handshakes. A peer that has
// no session yet is served.
func longChains(t *testing.T, a *arena) string {
	const authorities = 50 // 25 KB
	spec := sessionsSpec{
		To: netip.AddrPortFrom(a.server.Address, model.PortTunnel), Identity: "spiffe://cluster.local/ns/bank/sa/client",
		Many: 60, Chain: authorities, Pace: strangersPace,
	}
	if long {
		spec.Many = 400
	}
	before := a.processor(t)
	var took time.Duration
	var r report
	var late []error
	noticed := a.under(t, func() {
		p := from(t, a.outsider, "sessions", spec)
		time.Sleep(time.Second)
		for _, to := range []netip.Addr{a.accomplice.Address6, a.accomplice.Address} {
			late = append(late, reached(a.client, netip.AddrPortFrom(to, 8080)))
		}
		r = p.wait()
		took = a.processor(t) - before
	}, func() {
		serveTLS(t, a.plain, ":8445")
		control := spec
		control.To = netip.AddrPortFrom(a.plain.Address, 8445)
		from(t, a.outsider, "sessions", control).wait()
	})
	for _, err := range late {
		if err != nil {
			t.Errorf("a peer that was not connected before: %v", err)
		}
	}
	if r.Done > 0 {
		t.Errorf("%d sessions of a stranger", r.Done)
	}
	if r.Reached < spec.Many/2 {
		t.Errorf("%d of %d handshakes came to weft tunnel: %v", r.Reached, spec.Many, r.Errors)
	}
	return fmt.Sprintf("%d handshakes refused, weft tunnel took %s of a processor; %s", r.Reached, took, noticed)
}

// processor is what weft tunnel has taken of the processors.
func (a *arena) processor(t *testing.T) time.Duration {
	t.Helper()
	st, err := a.Proxy.Status(t.Context())
	if err != nil || st.Tunnel == nil {
		t.Fatalf("no weft tunnel: %v", err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", st.Tunnel.PID))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest) // from the third on: proc_pid_stat(5)
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// manySessions: one peer's sessions leave room for those of others. They come as fast as the kernel lets strangers in, for a peer's
// are taken over at connect.
func manySessions(t *testing.T, a *arena) string {
	spec := sessionsSpec{
		To: netip.AddrPortFrom(a.server.Address, model.PortTunnel), Certificate: a.stolen(t), Many: 2600, Pace: strangersPace, Hold: 4 * time.Second,
	}
	var r report
	var tunnel int
	noticed := a.under(t, func() {
		p := from(t, a.outsider, "sessions", spec)
		r = p.wait()
		_, tunnel = a.memory(t)
	}, nil)
	const most = 2048
	if r.Done > most {
		t.Errorf("one address has %d sessions to a pod", r.Done)
	}
	if r.Reached <= most {
		t.Errorf("%d of %d handshakes came to weft tunnel, which shows nothing of its limit of %d: %v", r.Reached, spec.Many, most, r.Errors)
	}
	if tunnel > tunnelMemory {
		t.Errorf("weft tunnel holds %d MB", tunnel)
	}
	return fmt.Sprintf("%d sessions of %d; weft tunnel %d MB; %s", r.Done, spec.Many, tunnel, noticed)
}
