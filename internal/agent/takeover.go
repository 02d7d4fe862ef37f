package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weft-mesh/weft/internal/model"
)

// takeoverSocket in the run directory is where the next agent asks the running one for its sockets.
const takeoverSocket = "takeover.sock"

// The protocol of the takeover socket. The next agent connects and sends takeoverRequest, with the descriptor of a pipe
// beside it (SCM_RIGHTS, unix(7)) from which the transports that it takes are read. An older version sends no pipe, and
// does not see one. The running agent stops its work, leaves the kernel's maps, and sends the names of its sockets as one
// line of JSON with their descriptors. The connection then lasts as long as the next agent does.
const (
	takeoverRequest = "take over\n"
	maxSockets      = 16
	// stopLimit bounds how long the running agent may take to stop.
	stopLimit     = 30 * time.Second
	maxTransports = 256 // bytes in the pipe
)

// errSucceeded ends the work of an agent that the next one takes over from.
var errSucceeded = errors.New("another agent takes over")

// running returns a connection to the agent that runs with this run directory, or nil if none does.
func running(ctx context.Context, runDir string) (*net.UnixConn, error) {
	path := filepath.Join(runDir, takeoverSocket)
	if err := checkPath(path); err != nil {
		return nil, err
	}
	c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask the running agent for its sockets: %w", err)
	}
	return c.(*net.UnixConn), nil
}

func askForSockets(c *net.UnixConn) (sockets, error) {
	if err := c.SetDeadline(time.Now().Add(stopLimit)); err != nil {
		return nil, err
	}
	if err := sendRequest(c); err != nil {
		return nil, err
	}
	line := make([]byte, 64<<10)
	rights := make([]byte, unix.CmsgSpace(maxSockets*4))
	n, nr, _, _, err := c.ReadMsgUnix(line, rights)
	if err != nil {
		return nil, fmt.Errorf("it did not hand over its sockets: %w", err)
	}
	files, err := receivedFiles(rights[:nr])
	if err != nil {
		return nil, err
	}
	got, err := listeners(line[:n], files)
	if err != nil {
		return nil, errors.Join(err, got.close())
	}
	return got, c.SetDeadline(time.Time{})
}

func sendRequest(c *net.UnixConn) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.WriteString(w, model.TransportNames(withTunnel)) // less than a pipe holds
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	_, _, err = c.WriteMsgUnix([]byte(takeoverRequest), unix.UnixRights(int(r.Fd())), nil)
	return err
}

func receivedFiles(rights []byte) ([]*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, fmt.Errorf("sockets that it handed over: %w", err)
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return nil, fmt.Errorf("sockets that it handed over: %w", err)
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "socket"))
		}
	}
	return files, nil
}

// listeners closes the files.
func listeners(line []byte, files []*os.File) (sockets, error) {
	got := sockets{}
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	var names []string
	if err := json.Unmarshal(line, &names); err != nil {
		return got, fmt.Errorf("names of the sockets that it handed over: %w", err)
	}
	if len(names) != len(files) {
		return got, fmt.Errorf("it handed over %d sockets and %d names", len(files), len(names))
	}
	for i, f := range files {
		l, err := net.FileListener(f)
		if err != nil {
			return got, fmt.Errorf("socket %s that it handed over: %w", names[i], err)
		}
		got[names[i]] = l
	}
	return got, nil
}

// successor waits for an agent that asks to take over, and returns which transports it takes. One agent at a time may
// connect and prepare itself.
func successor(ctx context.Context, l net.Listener) (*net.UnixConn, []model.Transport, error) {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			return nil, nil, errors.Join(ctx.Err(), err)
		}
		next := c.(*net.UnixConn)
		if takes, ok := asks(ctx, next); ok {
			return next, takes, nil
		}
		c.Close()
	}
}

// asks reports whether the other side sends takeoverRequest before it ends.
func asks(ctx context.Context, c *net.UnixConn) (takes []model.Transport, ok bool) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	line := make([]byte, len(takeoverRequest))
	rights := make([]byte, unix.CmsgSpace(maxSockets*4))
	n, nr, _, _, err := c.ReadMsgUnix(line, rights)
	if err != nil || n == 0 {
		return nil, false
	}
	files, err := receivedFiles(rights[:nr])
	for _, f := range files {
		if text, err := readAtOnce(f); err == nil {
			takes = append(takes, model.Transports(strings.Split(text, ","))...)
		}
	}
	if err != nil {
		return nil, false
	}
	_, err = io.ReadFull(c, line[n:])
	return takes, err == nil && string(line) == takeoverRequest
}

// readAtOnce returns what is in a pipe, and closes it.
func readAtOnce(f *os.File) (string, error) {
	defer f.Close()
	if err := unix.SetNonblock(int(f.Fd()), true); err != nil {
		return "", err
	}
	text := make([]byte, maxTransports)
	n, err := unix.Read(int(f.Fd()), text)
	return string(text[:max(n, 0)]), err
}

// handover is what an agent that stops keeps for the next one.
type handover struct {
	next  *net.UnixConn
	names []string
	files []*os.File
}

// keep duplicates the sockets, so that clients that connect while no agent serves wait instead of being refused.
func keep(next *net.UnixConn, all sockets) (*handover, error) {
	h := &handover{next: next}
	for name, l := range all {
		f, err := socketFile(l)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("hand over socket %s: %w", name, err), h.close())
		}
		h.names, h.files = append(h.names, name), append(h.files, f)
	}
	return h, nil
}

func socketFile(l net.Listener) (*os.File, error) {
	switch l := l.(type) {
	case *unixSocket:
		return socketFile(l.Listener)
	case *net.UnixListener:
		l.SetUnlinkOnClose(false)
		return l.File()
	case *net.TCPListener:
		return l.File()
	}
	return nil, fmt.Errorf("%T has no descriptor", l)
}

// send gives the sockets away and closes this process's copies.
func (h *handover) send() error {
	names, err := json.Marshal(h.names)
	if err != nil {
		return err
	}
	var fds []int
	for _, f := range h.files {
		fds = append(fds, int(f.Fd()))
	}
	_ = h.next.SetWriteDeadline(time.Now().Add(time.Second))
	_, _, err = h.next.WriteMsgUnix(names, unix.UnixRights(fds...), nil)
	for _, f := range h.files {
		f.Close()
	}
	h.files = nil
	return err
}

// wait returns when the next agent has ended, or with ctx.
func (h *handover) wait(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { _ = h.next.Close() })
	defer stop()
	_ = h.next.SetReadDeadline(time.Time{})
	_, _ = h.next.Read(make([]byte, 1))
}

func (h *handover) close() error {
	errs := []error{h.next.Close()}
	for _, f := range h.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
