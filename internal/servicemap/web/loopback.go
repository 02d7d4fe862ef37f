package web

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"net"
	"net/http"
)

// Loopback is a page for who started it: at an address that only this machine reaches, and for the bearer of a token that is
// made for it, because others may be on this machine too.
type Loopback struct {
	// URL opens the page with the token, which is behind the # and so in no request.
	URL string

	token    string
	listener net.Listener
}

// Listen makes a Loopback at host:port, of which the host must be a loopback address.
func Listen(address string) (*Loopback, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("service map: %w", err)
	}
	at, ok := l.Addr().(*net.TCPAddr)
	if !ok || !at.IP.IsLoopback() {
		_ = l.Close()
		return nil, fmt.Errorf("service map: %s is not a loopback address, such as 127.0.0.1:0", address)
	}
	token := rand.Text()
	return &Loopback{URL: "http://" + at.String() + "/#token=" + token, token: token, listener: l}, nil
}

var errToken = &Error{http.StatusUnauthorized, "the token is not that of this page; open the address that was printed"}

// allows reports whether a token is the page's.
func (l *Loopback) allows(token string) bool {
	return subtle.ConstantTimeCompare([]byte(token), []byte(l.token)) == 1
}

// Close stops listening.
func (l *Loopback) Close() { _ = l.listener.Close() }

// ServeView shows a view until ctx ends.
func (l *Loopback) ServeView(ctx context.Context, v View) error {
	return Serve(ctx, l.listener, nil, Handler(func(_ context.Context, _, token string) (View, error) {
		if !l.allows(token) {
			return nil, errToken
		}
		return v, nil
	}))
}

// ServeProxy shows what another server answers until ctx ends; proxy adds who asks it.
func (l *Loopback) ServeProxy(ctx context.Context, proxy http.Handler) error {
	mux := http.NewServeMux()
	mux.Handle("GET /", files())
	mux.HandleFunc("GET /v1/", func(w http.ResponseWriter, r *http.Request) {
		if !l.allows(Token(r)) {
			http.Error(w, errToken.Text, errToken.Status)
			return
		}
		proxy.ServeHTTP(w, r)
	})
	return Serve(ctx, l.listener, nil, secure(mux))
}
