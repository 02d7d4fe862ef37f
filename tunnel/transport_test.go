package tunnel

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"
)

// Records come whole, however the network cuts them. Read gives what has come without waiting for more.
func TestRecordsInPieces(t *testing.T) {
	a := newAuthority(t)
	const client, server = "spiffe://" + testDomain + "/ns/a/sa/client", "spiffe://" + testDomain + "/ns/a/sa/server"
	clientCred, serverCred := a.credentials(nil, client), a.credentials(nil, server)
	near, relayNear := tcpPair(t)
	relayFar, far := tcpPair(t)
	go relay(relayFar, relayNear)
	go relay(relayNear, relayFar)
	accepted := make(chan *secured, 1)
	go func() {
		s, err := secure(t.Context(), far, serverCred.accepting(), false, newTurns())
		if err != nil {
			t.Error(err)
		}
		accepted <- s
	}()
	c, err := secure(t.Context(), near, clientCred.dialling(server), true, newTurns())
	s := <-accepted
	if err != nil || s == nil {
		t.Fatal(err)
	}
	_ = far.SetDeadline(time.Now().Add(20 * time.Second))
	want := random(300_000)
	go func() {
		_, _ = c.Write(want)
		_ = c.Flush()
	}()
	var got []byte
	buf := make([]byte, 100_000)
	for len(got) < len(want) {
		n, err := s.Read(buf)
		if n == 0 || err != nil {
			t.Fatalf("%d bytes, then %d, %v", len(got), n, err)
		}
		got = append(got, buf[:n]...)
	}
	if !bytes.Equal(got, want) {
		t.Error("other bytes came than were sent")
	}
	if s.RoundTrip() <= 0 {
		t.Error("no round trip was measured")
	}
	_ = c.Close()
	if n, err := s.Read(buf); n > 0 || err == nil {
		t.Errorf("after the end: %d bytes, %v", n, err)
	}
}

// relay passes bytes on in pieces of 1 to 997 bytes.
func relay(to io.WriteCloser, from net.Conn) {
	defer to.Close()
	b := make([]byte, 997)
	for size := 1; ; size = size*31%997 + 1 {
		n, err := from.Read(b[:size])
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// Handshakes that wait for the other end leave their turn to others.
func TestHandshakesTakeTurns(t *testing.T) {
	a := newAuthority(t)
	const client, server = "spiffe://" + testDomain + "/ns/a/sa/client", "spiffe://" + testDomain + "/ns/a/sa/server"
	clientCred, serverCred := a.credentials(nil, client), a.credentials(nil, server)
	one := make(turns, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const many = 8
	ended := make(chan error, many)
	for range many {
		near, far := tcpPair(t)
		defer near.Close()
		go func() {
			_, err := secure(ctx, far, serverCred.accepting(), false, one)
			ended <- err
		}()
	}
	near, far := tcpPair(t)
	accepted := make(chan error, 1)
	go func() {
		_, err := secure(t.Context(), far, serverCred.accepting(), false, one)
		accepted <- err
	}()
	if _, err := secure(t.Context(), near, clientCred.dialling(server), true, one); err != nil {
		t.Error(err)
	}
	if err := <-accepted; err != nil {
		t.Error(err)
	}
	cancel()
	for range many {
		if err := <-ended; err == nil {
			t.Error("a handshake without a peer succeeded")
		}
	}
	select {
	case one <- struct{}{}:
	default:
		t.Error("a turn was not given back")
	}
}
