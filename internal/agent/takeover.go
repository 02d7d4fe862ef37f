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
	"time"

	"golang.org/x/sys/unix"
)

// takeoverSocket in the run directory is where the next agent asks the running one for its sockets.
const takeoverSocket = "takeover.sock"

// The protocol of the takeover socket. The next agent connects and sends takeoverRequest. The running agent stops its
// work, leaves the kernel's maps, and sends the names of its sockets as one line of JSON with their descriptors beside
// it (SCM_RIGHTS, unix(7)). The connection then lasts as long as the next agent does.
const (
	takeoverRequest = "take over\n"
	maxSockets      = 16
	// stopLimit bounds how long the running agent may take to stop.
	stopLimit = 30 * time.Second
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
	if _, err := io.WriteString(c, takeoverRequest); err != nil {
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

// successor waits for an agent that asks to take over. One agent at a time may connect and prepare itself.
func successor(ctx context.Context, l net.Listener) (*net.UnixConn, error) {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			return nil, errors.Join(ctx.Err(), err)
		}
		if asks(ctx, c) {
			return c.(*net.UnixConn), nil
		}
		c.Close()
	}
}

// asks reports whether the other side sends takeoverRequest before it ends.
func asks(ctx context.Context, c net.Conn) bool {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	line := make([]byte, len(takeoverRequest))
	_, err := io.ReadFull(c, line)
	return err == nil && string(line) == takeoverRequest
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
