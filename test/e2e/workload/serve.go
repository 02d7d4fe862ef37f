package workload

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weft-mesh/weft/internal/load"
)

// Ports of the servers.
const (
	PortHTTP  = 8080
	PortBytes = 7070 // greets with the server's name and the client's address, then echoes
	PortUDP   = 5353 // answers each datagram with the server's name and the client's address
)

// patience bounds how long requests in flight may take to end when the server is told to end.
const patience = 10 * time.Second

// Server is a pod.
type Server struct {
	Name string

	mu    sync.Mutex
	peers map[netip.Addr]int // connections accepted, by who made them
	loads map[string]*load.Running
}

// Serve serves until ctx ends, and then as servers do that users write: it takes no new connections, and ends the
// requests in flight.
func (s *Server) Serve(ctx context.Context) error {
	s.peers, s.loads = map[netip.Addr]int{}, map[string]*load.Running{}
	g, ctx := errgroup.WithContext(ctx)
	web, err := s.listen(ctx, PortHTTP)
	if err != nil {
		return err
	}
	bytes, err := s.listen(ctx, PortBytes)
	if err != nil {
		return err
	}
	datagrams, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", fmt.Sprintf(":%d", PortUDP))
	if err != nil {
		return err
	}
	control, err := listenControl(ctx)
	if err != nil {
		return err
	}
	g.Go(func() error { return serveHTTP(ctx, web, http.HandlerFunc(s.answer)) })
	g.Go(func() error { return serveHTTP(ctx, control, s.control()) })
	g.Go(func() error { return s.serveBytes(ctx, bytes) })
	g.Go(func() error { return s.serveUDP(ctx, datagrams) })
	return g.Wait()
}

func (s *Server) listen(ctx context.Context, port int) (net.Listener, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf(":%d", port))
	return &counted{Listener: l, server: s}, err
}

// counted notes whose connections a listener accepted.
type counted struct {
	net.Listener
	server *Server
}

func (l *counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if at, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
		l.server.mu.Lock()
		l.server.peers[at.Addr().Unmap()]++
		l.server.mu.Unlock()
	}
	return c, nil
}

// Peers lists who made connections that were accepted.
func (s *Server) Peers() []netip.Addr {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []netip.Addr
	for a := range s.peers {
		out = append(out, a)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	w.Header().Set(load.BackendHeader, s.Name)
	_, _ = fmt.Fprintf(w, "%s saw %s %s%s from %s\n", s.Name, r.Method, r.Host, r.URL.Path, r.RemoteAddr)
}

func serveHTTP(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, Protocols: new(http.Protocols)}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	ended := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		defer cancel()
		ended <- srv.Shutdown(ctx)
	})
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		stop()
		return err
	}
	return <-ended
}

// serveBytes greets, and echoes line by line.
func (s *Server) serveBytes(ctx context.Context, l net.Listener) error {
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			defer c.Close()
			if _, err := fmt.Fprintf(c, "%s saw %s\n", s.Name, c.RemoteAddr()); err == nil {
				_, _ = io.Copy(c, bufio.NewReader(c))
			}
		}()
	}
}

func (s *Server) serveUDP(ctx context.Context, p net.PacketConn) error {
	defer context.AfterFunc(ctx, func() { _ = p.Close() })()
	buf := make([]byte, 2048)
	for {
		_, from, err := p.ReadFrom(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintf(writerTo{p, from}, "%s saw %s\n", s.Name, from)
	}
}

type writerTo struct {
	conn net.PacketConn
	to   net.Addr
}

func (w writerTo) Write(b []byte) (int, error) { return w.conn.WriteTo(b, w.to) }
