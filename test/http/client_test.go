package http

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
)

// patience is the most that an exchange takes; whatever takes longer hangs.
const patience = 10 * time.Second

// ask plays a case, and returns the answers that the client saw: interim ones, and the final one.
func ask(from *lab.Pod, to string, x *exchange) ([]message, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if x.h2 != nil {
		m, err := askHTTP2(ctx, from, to, x)
		return []message{m}, err
	}
	c, err := from.Dial(ctx, "tcp", to)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	end, _ := ctx.Deadline()
	if err := c.SetDeadline(end); err != nil {
		return nil, err
	}
	written := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, x.request)
		if err == nil && x.half {
			err = c.(*net.TCPConn).CloseWrite()
		}
		written <- err
	}()
	out, err := answers(bufio.NewReader(c), c, x)
	if err == nil && !x.early {
		err = <-written
	}
	return out, err
}

// answers reads up to the final answer.
func answers(r *bufio.Reader, w io.Writer, x *exchange) ([]message, error) {
	method, _, _ := strings.Cut(x.request, " ")
	var out []message
	for {
		a, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			return append(out, message{End: ending(err)}), nil
		}
		m := message{Start: strconv.Itoa(a.StatusCode), Fields: fields(a.Header, "")}
		if method == http.MethodHead || a.StatusCode == http.StatusNotModified {
			if a.ContentLength >= 0 { // says what GET would answer
				m.Fields = append(m.Fields, "content-length: "+strconv.FormatInt(a.ContentLength, 10))
			}
		}
		switch {
		case a.StatusCode == http.StatusSwitchingProtocols:
			if x.talk != nil {
				m.Body = x.talk(struct {
					io.Reader
					io.Writer
				}{r, w})
			}
			return append(out, m), nil
		case a.StatusCode < 200:
			out = append(out, m)
			continue
		}
		body, err := io.ReadAll(a.Body)
		m.Body, m.Trailer = short(body), fields(a.Trailer, "")
		if err != nil {
			m.End = ending(err)
		}
		return append(out, m), nil
	}
}

// ending names how a connection ended, without addresses.
func ending(err error) string {
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed"
	case strings.Contains(err.Error(), "connection reset"):
		return "reset"
	}
	return err.Error()
}

func askHTTP2(ctx context.Context, from *lab.Pod, to string, x *exchange) (message, error) {
	tr := &http.Transport{
		Protocols:              new(http.Protocols),
		MaxResponseHeaderBytes: 1 << 20,
		DisableCompression:     true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return from.Dial(ctx, "tcp", to)
		},
	}
	tr.Protocols.SetUnencryptedHTTP2(true)
	defer tr.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://shop.example/", nil)
	if err != nil {
		return message{}, err
	}
	r.Header["User-Agent"] = nil
	x.h2(r)
	a, err := tr.RoundTrip(r)
	if err != nil {
		return message{End: err.Error()}, nil
	}
	defer a.Body.Close()
	m := message{Start: fmt.Sprint(a.StatusCode), Fields: fields(a.Header, "")}
	body, err := io.ReadAll(a.Body)
	m.Body, m.Trailer = short(body), fields(a.Trailer, "")
	if err != nil {
		m.End = ending(err)
	}
	return m, nil
}
