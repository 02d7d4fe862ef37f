package tunnel

import (
	"errors"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socket is a non-blocking socket in the runtime's poller. Its methods may be called while another goroutine closes it.
type socket struct {
	file *os.File
	raw  syscall.RawConn
}

// newSocket owns fd from here on.
func newSocket(fd int) (*socket, error) {
	f := os.NewFile(uintptr(fd), "socket")
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &socket{file: f, raw: raw}, nil
}

// interrupt makes calls that wait return, now and from now on.
func (s *socket) interrupt() {
	_ = s.file.SetDeadline(time.Unix(1, 0)) // a file that is closed waits for nothing
}

func (s *socket) close() { s.file.Close() }

// control calls f unless the socket is closed.
func (s *socket) control(f func(fd int)) {
	_ = s.raw.Control(func(fd uintptr) { f(int(fd)) })
}

// resetOnClose makes close send an RST.
func (s *socket) resetOnClose() {
	s.control(func(fd int) {
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	})
}

// closeWrite sends a FIN after what was written.
func (s *socket) closeWrite() {
	s.control(func(fd int) { _ = unix.Shutdown(fd, unix.SHUT_WR) })
}

// failure gives the socket's pending error, without waiting. ready is false while a connection is being made.
func failure(fd int) (ready bool, err error) {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	if _, err := unix.Poll(p[:], 0); err != nil {
		return false, nil // interrupted: the next look tells
	}
	if p[0].Revents&unix.POLLERR != 0 {
		no, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && no != 0 {
			err = unix.Errno(no)
		}
		if err == nil {
			err = unix.ECONNRESET
		}
		return true, err
	}
	return p[0].Revents&(unix.POLLOUT|unix.POLLHUP) != 0, nil
}

// awaitFailure returns when the connection is reset, with the reason, or when the socket is interrupted, with nil.
func (s *socket) awaitFailure() (failed error) {
	_ = s.raw.Read(func(fd uintptr) bool {
		_, failed = failure(int(fd))
		return failed != nil
	})
	return failed
}

// awaitConnected waits until a connection that is being made is there.
func (s *socket) awaitConnected() (failed error) {
	err := s.raw.Write(func(fd uintptr) bool {
		var ready bool
		ready, failed = failure(int(fd))
		return ready
	})
	return errors.Join(failed, err)
}

// rawIO is a read or a write that does not wait: SYS_READ or SYS_WRITE of a non-blocking socket. The scheduler does not
// hear of it. It would give the processor of a goroutine in a system call to another thread after 20 microseconds, which
// large transfers take, and waking threads costs more than the transfer does.
func rawIO(call uintptr, fd int, b []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// read reads once, without waiting.
func read(fd int, b []byte) (int, error) { return rawIO(unix.SYS_READ, fd, b) }

// write writes once, without waiting. Nothing written is no error.
func write(fd int, b []byte) (int, error) {
	n, err := rawIO(unix.SYS_WRITE, fd, b)
	if errors.Is(err, unix.EAGAIN) {
		return 0, nil
	}
	return n, err
}

// writeParts writes once, without waiting. Nothing written is no error.
func writeParts(fd int, parts [][]byte) (int, error) {
	if len(parts) == 1 {
		return write(fd, parts[0])
	}
	var iov [maxParts]unix.Iovec
	for i, b := range parts {
		iov[i].Base = unsafe.SliceData(b)
		iov[i].SetLen(len(b))
	}
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(&iov)), uintptr(len(parts)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EAGAIN:
			return 0, nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// writeAll writes all of b, and waits until it can.
func writeAll(raw syscall.RawConn, b []byte) (err error) {
	werr := raw.Write(func(fd uintptr) bool {
		for len(b) > 0 && err == nil {
			var n int
			if n, err = write(int(fd), b); n == 0 && err == nil {
				return false
			}
			b = b[n:]
		}
		return true
	})
	return errors.Join(err, werr)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch s := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(s.Addr), uint16(s.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(s.Addr).Unmap(), uint16(s.Port))
	}
	return netip.AddrPort{}
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
