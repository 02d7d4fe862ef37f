package main

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/weft-mesh/weft/internal/load"
)

// A client sends a header: what it wants, the number that its bytes are made from, and how many there are.
const (
	download = 'D' // the server sends the bytes and closes
	upload   = 'U' // the client sends the bytes and closes its direction; the server says whether they came
	echo     = 'E' // the server sends back what comes, until the client closes its direction
	cut      = 'R' // the server sends the bytes and resets the connection
)

const headerSize = 17

// idle bounds how long a connection waits for the other end. Load waits for a minute at most by itself.
const idle = 3 * time.Minute

type header struct {
	op   byte
	seed uint64
	size int64
}

func (h header) encode() []byte {
	b := make([]byte, headerSize)
	b[0] = h.op
	binary.BigEndian.PutUint64(b[1:], h.seed)
	binary.BigEndian.PutUint64(b[9:], uint64(h.size))
	return b
}

func readHeader(r io.Reader) (h header, err error) {
	b := make([]byte, headerSize)
	if _, err = io.ReadFull(r, b); err == nil {
		h = header{b[0], binary.BigEndian.Uint64(b[1:]), int64(binary.BigEndian.Uint64(b[9:]))}
	}
	return h, err
}

// content returns the bytes of a number.
func (h header) content() io.Reader {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], h.seed)
	return io.LimitReader(rand.NewChaCha8(key), h.size)
}

// expect reads the content of h, and then the error at the end of it: io.EOF, or a reset.
func (h header) expect(r io.Reader) (end, err error) {
	want := bufio.NewReaderSize(h.content(), 64<<10)
	got, same := make([]byte, 64<<10), make([]byte, 64<<10)
	var at int64
	for {
		n, err := r.Read(got)
		if _, werr := io.ReadFull(want, same[:n]); werr != nil {
			return nil, fmt.Errorf("%d bytes came where %d were sent", at+int64(n), h.size)
		}
		if !bytes.Equal(got[:n], same[:n]) {
			return nil, fmt.Errorf("bytes %d to %d of %d are not those that were sent", at, at+int64(n), h.size)
		}
		at += int64(n)
		switch {
		case err == nil:
		case errors.Is(err, io.EOF) && at < h.size:
			return nil, fmt.Errorf("the connection was closed after %d of %d bytes", at, h.size)
		case at < h.size && h.op != cut:
			return nil, fmt.Errorf("after %d of %d bytes: %w", at, h.size, err)
		default:
			return err, nil
		}
	}
}

func (s *soak) serveBytes(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if err := answer(c.(*net.TCPConn)); err != nil {
				s.fail("server", err)
			}
		}()
	}
}

// answer serves one connection. It returns an error if the client did not end it as it should have.
func answer(c *net.TCPConn) error {
	_ = c.SetDeadline(time.Now().Add(idle))
	h, err := readHeader(c)
	if err != nil {
		return fmt.Errorf("no header: %w", err)
	}
	switch h.op {
	case download:
		if _, err := io.Copy(c, h.content()); err != nil {
			return fmt.Errorf("download of %d bytes: %w", h.size, err)
		}
	case upload:
		verdict := "whole"
		if _, err := h.expect(c); err != nil {
			verdict = err.Error()
		}
		if _, err := io.WriteString(c, verdict); err != nil {
			return fmt.Errorf("answer to an upload: %w", err)
		}
	case echo:
		buf := make([]byte, 32<<10)
		for {
			_ = c.SetDeadline(time.Now().Add(idle))
			n, err := c.Read(buf)
			if n > 0 {
				if _, err := c.Write(buf[:n]); err != nil {
					return fmt.Errorf("echo: %w", err)
				}
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("echo: %w", err)
			}
		}
	case cut:
		if _, err := io.Copy(c, h.content()); err != nil {
			return fmt.Errorf("before a reset: %w", err)
		}
		_ = c.SetLinger(0)
	}
	return nil
}

func serveHTTP(l net.Listener) {
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(load.BackendHeader, l.Addr().String())
		_, _ = io.WriteString(w, "ok\n")
	})}
	_ = s.Serve(l)
}
