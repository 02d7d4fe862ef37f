package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/weft-mesh/weft/internal/connlimit"
	"github.com/weft-mesh/weft/internal/proxy"
)

// Sockets in the run directory, beside the API's.
const (
	xdsSocket = proxy.XDSSocket
	cniSocket = "cni.sock"
)

// maxSocketPath is the size of sun_path (unix(7)) but for its final NUL.
const maxSocketPath = 107

var errServed = errors.New("is served already")

// listenUnix listens with mode 0600 and takes the place of a socket that nobody serves any more.
func listenUnix(path string) (net.Listener, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("%s %w: another weft agent runs with this --run", path, errServed)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("stale socket %s: %w", path, err)
	}
	old := syscall.Umask(0o177) // no moment in which others could connect
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return newUnixSocket(l, path)
}

func checkPath(path string) error {
	if len(path) > maxSocketPath {
		return fmt.Errorf("%s is too long for a socket, which takes %d bytes: give a shorter --run", path, maxSocketPath)
	}
	return nil
}

func newUnixSocket(l net.Listener, path string) (*unixSocket, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), l.Close())
	}
	return &unixSocket{l, path, info}, nil
}

// unixSocket is what listenUnix gives: it can tell whether clients still find it.
type unixSocket struct {
	net.Listener
	path string
	info os.FileInfo
}

// lost says why clients do not find a listener; nil if they do, or it is no unix socket. A run directory that is removed takes the sockets with it, and
// only an agent that starts again, in a mount of the new one, has them where they are looked for.
func lost(l net.Listener) error {
	s, ok := l.(*unixSocket)
	if !ok {
		return nil
	}
	now, err := os.Stat(s.path)
	if err != nil {
		return fmt.Errorf("the socket is gone: %w", err)
	}
	if !os.SameFile(now, s.info) {
		return fmt.Errorf("another socket is in the place of %s", s.path)
	}
	return nil
}

func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	return serve(ctx, l, &http.Server{Handler: h})
}

// maxOutside bounds the connections to an address that others than this node may reach.
const maxOutside = 64

// serveOutside is serveHTTP for clients that nobody vouches for: their connections are few, and end when they are idle or
// slow to read.
func serveOutside(ctx context.Context, l net.Listener, h http.Handler) error {
	return serve(ctx, connlimit.Listen(l, maxOutside, maxOutside), &http.Server{Handler: h, IdleTimeout: 2 * time.Minute, WriteTimeout: time.Minute})
}

func serve(ctx context.Context, l net.Listener, s *http.Server) error {
	s.ReadHeaderTimeout, s.BaseContext = 5*time.Second, func(net.Listener) context.Context { return ctx }
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
