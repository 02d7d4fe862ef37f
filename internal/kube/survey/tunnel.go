package survey

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
)

// Relay is the hidden command of weft that joins its standard input and output to the agent's socket.
const Relay = "relay"

// tunnel is a connection to the socket of an agent, by a command that the API server runs in the agent's pod.
type tunnel struct {
	net.Conn
	cancel context.CancelFunc
	ended  chan struct{}

	mu  sync.Mutex
	err error // why the command ended
}

// DialAgent connects to the API of the agent in a pod. The connection ends with ctx. It takes the right to create
// pods/exec in the namespace.
func (c *Cluster) DialAgent(ctx context.Context, namespace, pod string) (net.Conn, error) {
	run, err := c.command(namespace, pod, Agent, true, "weft", Relay)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(quiet(ctx))
	ours, theirs := net.Pipe()
	t := &tunnel{Conn: ours, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(t.ended)
		var said limited
		err := run.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: theirs, Stdout: theirs, Stderr: &said})
		t.end(err, said.String())
		_ = theirs.Close()
	}()
	return t, nil
}

// quiet keeps client-go from logging of streams that end what the errors say too.
func quiet(ctx context.Context) context.Context { return klog.NewContext(ctx, klog.Logger{}) }

// command runs a command in a container: by WebSockets, or by SPDY where the API server is older than that.
func (c *Cluster) command(namespace, pod, container string, stdin bool, words ...string) (remotecommand.Executor, error) {
	cfg := rest.CopyConfig(c.cfg)
	cfg.Timeout = 0
	r := c.rest.Post().AbsPath("/api/v1/namespaces", namespace, "pods", pod, "exec").Param("container", container).
		Param("stdin", strconv.FormatBool(stdin)).Param("stdout", "true").Param("stderr", "true")
	for _, word := range words {
		r = r.Param("command", word)
	}
	url := r.URL()
	sockets, err := remotecommand.NewWebSocketExecutor(cfg, "GET", url.String())
	if err != nil {
		return nil, fmt.Errorf("client of %s: %w", url, err)
	}
	spdy, err := remotecommand.NewSPDYExecutor(cfg, "POST", url)
	if err != nil {
		return nil, fmt.Errorf("client of %s: %w", url, err)
	}
	return remotecommand.NewFallbackExecutor(sockets, spdy, httpstream.IsUpgradeFailure)
}

// end keeps the reason for which the command ended; what it said is better than its exit status.
func (t *tunnel) end(err error, said string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch said = strings.TrimSpace(said); {
	case said != "":
		t.err = errors.New(said)
	case err != nil:
		t.err = err
	}
}

// Read returns the reason why the command ended in place of an end of file.
func (t *tunnel) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	return n, t.reason(err)
}

// Write does the same.
func (t *tunnel) Write(b []byte) (int, error) {
	n, err := t.Conn.Write(b)
	return n, t.reason(err)
}

func (t *tunnel) reason(err error) error {
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return t.err
	}
	return err
}

// Close ends the command, and waits until it has.
func (t *tunnel) Close() error {
	err := t.Conn.Close()
	t.cancel()
	<-t.ended
	return err
}

// limited keeps the first kilobyte that is written.
type limited struct {
	mu sync.Mutex
	b  []byte
}

func (l *limited) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p[:min(len(p), 1024-len(l.b))]...)
	return len(p), nil
}

func (l *limited) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}

// ServeRelay joins in and out to a unix socket until either end has no more to say.
func ServeRelay(ctx context.Context, socket string, in io.Reader, out io.Writer) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("the agent does not answer on %s: %w", socket, err)
	}
	defer conn.Close()
	go func() { // ends with the process: a read of standard input cannot be ended
		_, _ = io.Copy(conn, in)
		_ = conn.(*net.UnixConn).CloseWrite()
	}()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if _, err = io.Copy(out, conn); errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}
