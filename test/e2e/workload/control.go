package workload

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/weft-mesh/weft/internal/load"
)

// controlSocket is in the container's own file system, so that pods of the node's network may share a node.
const controlSocket = "/control.sock"

// Spec is load to make; see load.Config. Durations are nanoseconds in JSON.
type Spec struct {
	URL            string        `json:"url"`
	Host           string        `json:"host,omitempty"`
	Workers        int           `json:"workers"`
	NewConnections bool          `json:"newConnections,omitempty"`
	MaxAge         time.Duration `json:"maxAge,omitempty"`
	Rate           float64       `json:"rate"`
	Timeout        time.Duration `json:"timeout,omitempty"`
	// SNI is the name that an https URL is asked by; the server's certificate is not verified.
	SNI string `json:"sni,omitempty"`
}

// Config is the Spec as load takes it.
func (s Spec) Config() load.Config {
	c := load.Config{
		URL: s.URL, Host: s.Host, Workers: s.Workers, NewConnections: s.NewConnections, MaxAge: s.MaxAge, Rate: s.Rate,
		Timeout: s.Timeout,
	}
	if s.SNI != "" {
		c.TLS = &tls.Config{InsecureSkipVerify: true, ServerName: s.SNI}
	}
	return c
}

// Summary is what became of load.
type Summary struct {
	Requests int            `json:"requests"`
	Failed   int            `json:"failed"`
	Backends map[string]int `json:"backends"` // answers by who gave them
	Failures []string       `json:"failures,omitempty"`
	// Outage is from the first failure's start to the last one's end.
	Outage       time.Duration `json:"outage,omitempty"`
	FirstFailure time.Time     `json:"firstFailure,omitzero"`
	P50          time.Duration `json:"p50"`
	P99          time.Duration `json:"p99"`
	Max          time.Duration `json:"max"`
}

// Summarise sums a report up.
func Summarise(r *load.Report) Summary {
	return Summary{
		Requests: r.Requests, Failed: r.Failed, Backends: r.Backends, Failures: r.Failures(), Outage: r.Outage(),
		FirstFailure: r.FirstFailure, P50: r.Quantile(0.5), P99: r.Quantile(0.99), Max: r.Quantile(1),
	}
}

func listenControl(ctx context.Context) (net.Listener, error) {
	if err := os.Remove(controlSocket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return (&net.ListenConfig{}).Listen(ctx, "unix", controlSocket)
}

// control answers the commands start, stop and peers.
func (s *Server) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /start/{name}", func(w http.ResponseWriter, r *http.Request) {
		var spec Spec
		err := json.NewDecoder(r.Body).Decode(&spec)
		if err == nil {
			err = s.start(r.PathValue("name"), spec)
		}
		reply(w, struct{}{}, err)
	})
	mux.HandleFunc("POST /stop/{name}", func(w http.ResponseWriter, r *http.Request) {
		sum, err := s.stop(r.PathValue("name"))
		reply(w, sum, err)
	})
	mux.HandleFunc("GET /peers", func(w http.ResponseWriter, _ *http.Request) { reply(w, s.Peers(), nil) })
	return mux
}

func reply(w http.ResponseWriter, v any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_ = json.NewEncoder(w).Encode(v)
}

// start starts load, in the place of an earlier one of its name.
func (s *Server) start(name string, spec Spec) error {
	if _, err := s.stop(name); err != nil && !errors.Is(err, errNoLoad) {
		return err
	}
	running, err := load.Start(context.Background(), spec.Config()) // it outlives the request that starts it
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loads[name] = running
	return nil
}

var errNoLoad = errors.New("no such load runs")

func (s *Server) stop(name string) (Summary, error) {
	s.mu.Lock()
	running := s.loads[name]
	delete(s.loads, name)
	s.mu.Unlock()
	if running == nil {
		return Summary{}, fmt.Errorf("%q: %w", name, errNoLoad)
	}
	return Summarise(running.Stop()), nil
}

// Command sends a command to the pod's server and writes what it answers: start NAME (the Spec is read from in), stop
// NAME or peers.
func Command(ctx context.Context, in io.Reader, out io.Writer, command string, names ...string) error {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", controlSocket)
	}}}
	method, path, body := http.MethodPost, "/"+command, io.Reader(nil)
	switch command {
	case "start":
		b, err := io.ReadAll(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	case "peers":
		method = http.MethodGet
	}
	for _, n := range names {
		path += "/" + url.PathEscape(n)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://pod"+path, body)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(res.Body)
		return fmt.Errorf("%s: %s", path, bytes.TrimSpace(b))
	}
	_, err = io.Copy(out, res.Body)
	return err
}
