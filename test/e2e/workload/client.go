package workload

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/weft-mesh/weft/internal/load"
)

// callTimeout is of one call.
const callTimeout = 5 * time.Second

// Answer is what a call got.
type Answer struct {
	Status  int         `json:"status"` // 0 when there was no answer
	Backend string      `json:"backend,omitempty"`
	Header  http.Header `json:"header,omitempty"`
	Body    string      `json:"body,omitempty"`
	Error   string      `json:"error,omitempty"`
}

// Call sends one request over a connection of its own. header is added to it. With https, host is the name that is asked
// for, and the server's certificate is not verified.
func Call(ctx context.Context, url, host string, header http.Header) Answer {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return Answer{Error: err.Error()}
	}
	req.Host, req.Close = host, true
	for k, v := range header {
		req.Header[k] = v
	}
	res, err := (&http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: host}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}).Do(req)
	if err != nil {
		return Answer{Error: err.Error()}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return Answer{Error: err.Error()}
	}
	return Answer{Status: res.StatusCode, Backend: res.Header.Get(load.BackendHeader), Header: res.Header, Body: string(body)}
}

// Talk says a line over tcp or udp and gives the first line of the answer.
func Talk(ctx context.Context, network, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	c, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	return strings.TrimSpace(line), err
}

// Resolve asks the pod's name server over tcp or udp.
func Resolve(ctx context.Context, network, name string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}}
	return r.LookupHost(ctx, name)
}

// Poll reads URLs, a line each, asks for each every millisecond until it is answered with 200, and writes a line then:
// the time of the request that was answered so, in nanoseconds of the Unix epoch. It gives up on one after a minute,
// with 0.
func Poll(ctx context.Context, in io.Reader, out io.Writer) error {
	client := &http.Client{Timeout: callTimeout}
	defer client.CloseIdleConnections()
	for lines := bufio.NewScanner(in); lines.Scan(); {
		at, err := firstOK(ctx, client, lines.Text())
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(out, at); err != nil {
			return err
		}
	}
	return nil
}

func firstOK(ctx context.Context, client *http.Client, url string) (nanoseconds int64, err error) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return 0, err
		}
		at := time.Now()
		res, err := client.Do(req)
		if err != nil {
			if ctx.Err() != nil {
				return 0, err
			}
			continue
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.StatusCode == http.StatusOK {
			return at.UnixNano(), nil
		}
	}
	return 0, nil
}

// Print writes a value as a line of JSON.
func Print(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }
