package http

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
)

const serverPort = 8080

// message is what one end saw of a request or an answer.
type message struct {
	Start   string   // "METHOD target", or the status
	Fields  []string // "name: value", names in lower case, sorted by name; several fields of one name in their order
	Body    string   // its hash where it is long
	Trailer []string
	End     string // how it ended, if not as its framing says
}

// server answers in a pod as the case says, and notes what it gets. It speaks HTTP/1 and, after the preface, HTTP/2.
type server struct {
	l  net.Listener
	wg sync.WaitGroup

	mu    sync.Mutex
	c     *exchange
	seen  []message
	conns map[net.Conn]struct{}
}

func serve(t *testing.T, p *lab.Pod) *server {
	t.Helper()
	l, err := p.Listen("tcp", fmt.Sprintf(":%d", serverPort))
	if err != nil {
		t.Fatal(err)
	}
	s := &server{l: l, conns: map[net.Conn]struct{}{}}
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[c] = struct{}{}
			s.mu.Unlock()
			s.wg.Go(func() {
				defer func() { s.mu.Lock(); delete(s.conns, c); s.mu.Unlock(); c.Close() }()
				s.conn(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		for c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		s.wg.Wait()
	})
	return s
}

// expect names the exchange that is played from now on.
func (s *server) expect(c *exchange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.c, s.seen = c, nil
}

func (s *server) saw() []message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

func (s *server) note(m message) *exchange {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, m)
	return s.c
}

func (s *server) current() *exchange {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.c
}

// conn serves requests until the connection ends.
func (s *server) conn(c net.Conn) {
	r := bufio.NewReader(c)
	if start, _ := r.Peek(4); string(start) == "PRI " {
		s.http2(c, r)
		return
	}
	for {
		m, length, err := readHead(r)
		if err != nil {
			return
		}
		x := s.current()
		if x.early { // answers before it has read the body, and closes
			s.note(m)
			_, _ = io.WriteString(c, x.answer)
			return
		}
		if slices.Contains(m.Fields, "expect: 100-continue") {
			_, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
		}
		if m.Body, m.Trailer, err = readBody(r, length); err != nil {
			m.End = err.Error()
		}
		x = s.note(m)
		if m.End != "" {
			return
		}
		time.Sleep(x.slow)
		if _, err := io.WriteString(c, x.answer); err != nil || x.closes {
			return
		}
		if x.after != nil {
			x.after(struct {
				io.Reader
				io.Writer
			}{r, c})
			return
		}
	}
}

// http2 answers with what the answer in HTTP/1 says.
func (s *server) http2(c net.Conn, r *bufio.Reader) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := message{Start: r.Method + " " + r.RequestURI, Fields: fields(r.Header, r.Host)}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			m.End = err.Error()
		}
		m.Body, m.Trailer = short(body), fields(r.Trailer, "")
		x := s.note(m)
		a, err := http.ReadResponse(bufio.NewReader(strings.NewReader(x.answer)), r)
		if err != nil {
			panic(err)
		}
		w.Header()["Date"], w.Header()["Content-Type"] = nil, nil // the server in HTTP/1 adds none
		for k, v := range a.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(a.StatusCode)
		_, _ = io.Copy(w, a.Body)
		for k, v := range a.Trailer {
			w.Header()[http.TrailerPrefix+k] = v
		}
	})
	srv := &http.Server{Handler: h, Protocols: new(http.Protocols), MaxHeaderBytes: 1 << 20}
	srv.Protocols.SetUnencryptedHTTP2(true)
	_ = srv.Serve(&oneListener{conn: buffered{c, r}, done: make(chan struct{})})
}

// buffered is a connection of which r has read the start.
type buffered struct {
	net.Conn
	r io.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// oneListener gives one connection, and ends when that does.
type oneListener struct {
	conn buffered
	once sync.Once
	done chan struct{}
}

func (l *oneListener) Accept() (net.Conn, error) {
	var c net.Conn
	l.once.Do(func() { c = closing{l.conn, sync.OnceFunc(func() { close(l.done) })} })
	if c != nil {
		return c, nil
	}
	<-l.done
	return nil, net.ErrClosed
}

func (l *oneListener) Close() error   { return nil }
func (l *oneListener) Addr() net.Addr { return l.conn.LocalAddr() }

type closing struct {
	buffered
	done func()
}

func (c closing) Close() error {
	c.done()
	return c.buffered.Close()
}

// Lengths of a body whose length its fields do not give.
const (
	chunked  = -1
	untilEOF = -2
)

// readHead reads a request's first line and fields, and says how long its body is.
func readHead(r *bufio.Reader) (m message, length int, err error) {
	tp := textproto.NewReader(r)
	line, err := tp.ReadLine()
	if err != nil {
		return m, 0, err
	}
	m.Start = strings.TrimSuffix(strings.TrimSuffix(line, " HTTP/1.1"), " HTTP/1.0")
	h, err := tp.ReadMIMEHeader()
	if err != nil {
		return m, 0, err
	}
	m.Fields = fields(http.Header(h), "")
	if strings.EqualFold(h.Get("Transfer-Encoding"), "chunked") {
		return m, chunked, nil
	}
	length, _ = strconv.Atoi(h.Get("Content-Length"))
	return m, length, nil
}

func readBody(r *bufio.Reader, length int) (body string, trailer []string, err error) {
	var b []byte
	switch length {
	case chunked:
		if b, err = io.ReadAll(httputil.NewChunkedReader(r)); err == nil {
			var h textproto.MIMEHeader
			h, err = textproto.NewReader(r).ReadMIMEHeader()
			trailer = fields(http.Header(h), "")
		}
	case untilEOF:
		b, err = io.ReadAll(r)
	default:
		b = make([]byte, length)
		var n int
		n, err = io.ReadFull(r, b)
		b = b[:n]
	}
	return short(b), trailer, err
}

// framing are the fields that belong to a connection or to the framing of a body, not to the message (RFC 9110 7.6.1).
var framing = []string{"connection", "keep-alive", "proxy-connection", "transfer-encoding", "content-length", "trailer"}

func fields(h http.Header, host string) []string {
	var out []string
	for name, values := range h {
		name = strings.ToLower(name)
		if slices.Contains(framing, name) {
			continue
		}
		if name != "set-cookie" { // the values of a list may be put into one field (RFC 9110 5.3)
			values = []string{strings.ReplaceAll(strings.Join(values, ","), ", ", ",")}
		}
		for _, v := range values {
			out = append(out, name+": "+v)
		}
	}
	if host != "" {
		out = append(out, "host: "+host)
	}
	slices.SortStableFunc(out, func(a, b string) int {
		a, _, _ = strings.Cut(a, ":")
		b, _, _ = strings.Cut(b, ":")
		return strings.Compare(a, b)
	})
	return out
}

func short(b []byte) string {
	if len(b) > 64 {
		return fmt.Sprintf("%d bytes, %x", len(b), sha256.Sum256(b))
	}
	return string(bytes.Clone(b))
}
