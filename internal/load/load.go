// Package load makes HTTP load and counts what comes back: for the demo and the tests, where one failed request in
// thousands matters more than speed.
//
// It does not use net/http's Transport, which silently sends a request again when a kept-alive connection turns out to
// be closed: such a request is a failure here.
package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// BackendHeader is the response header in which the demo's server names itself.
const BackendHeader = "X-Served-By"

// DialFunc connects to an IP address and port, in whatever network namespace it likes.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Config says what load to make. Requests or Duration must bound it, or the context given to Start.
type Config struct {
	URL    string      // http or https; the host is an IP address if Dial resolves no names
	Host   string      // Host header and SNI; "" is the URL's host
	Header http.Header // sent with every request; nil is none
	// Dial makes the connections; nil is a net.Dialer.
	Dial DialFunc
	// TLS is used for https; nil verifies against the machine's roots.
	TLS *tls.Config
	// Workers send one request after the other; 0 is 1. Each keeps one connection alive, or opens one for every
	// request where NewConnections is set.
	Workers        int
	NewConnections bool
	MaxAge         time.Duration // a kept connection is closed after an answer when it is older; 0 is never
	Requests       int           // stop after so many; 0 is no bound
	Duration       time.Duration // stop after so long; 0 is no bound
	Rate           float64       // requests a second of all workers together; 0 is as fast as answers come
	Ramp           time.Duration // workers start evenly over this time
	Timeout        time.Duration // of one request, connecting included; 0 is 5 s
	// Observe sees every result, one at a time, in the order in which they end; nil is none.
	Observe func(Result)
}

// Result is what became of one request.
type Result struct {
	Start   time.Time
	Took    time.Duration
	Status  int    // 0 when there was no answer
	Backend string // BackendHeader of the answer
	Err     error  // transport error; nil when there was an answer
}

// Failed reports whether the client did not get what it asked for: no answer, or one that is not 2xx.
func (r Result) Failed() bool { return r.Err != nil || r.Status < 200 || r.Status > 299 }

// Run makes the load and waits for its end.
func Run(ctx context.Context, c Config) (*Report, error) {
	r, err := Start(ctx, c)
	if err != nil {
		return nil, err
	}
	return r.Wait(), nil
}

// Running is load that is being made.
type Running struct {
	cancel  context.CancelFunc
	workers sync.WaitGroup
	tickets atomic.Int64
	stop    <-chan struct{}
	gate    *gate
	cfg     Config
	url     *url.URL

	mu     sync.Mutex
	report *Report
}

// Start begins to make load. It fails only for a Config that cannot work; end it with Stop or Wait.
func Start(ctx context.Context, c Config) (*Running, error) {
	u, err := url.Parse(c.URL)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("load: %q is not an http or https URL", c.URL)
	}
	if c.Requests < 0 || c.Duration < 0 || c.Rate < 0 || c.Workers < 0 {
		return nil, errors.New("load: a negative bound")
	}
	c.Workers = max(c.Workers, 1)
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{}).DialContext
	}
	// A request in flight is finished when the time is over: cutting it would look like a failure of the server.
	var stop context.Context
	r := &Running{cfg: c, url: u, report: newReport(), gate: newGate(c.Rate)}
	if c.Duration > 0 {
		stop, r.cancel = context.WithTimeout(ctx, c.Duration)
	} else {
		stop, r.cancel = context.WithCancel(ctx)
	}
	r.stop = stop.Done()
	for i := range c.Workers {
		r.workers.Go(func() {
			if sleep(r.stop, c.Ramp*time.Duration(i)/time.Duration(c.Workers)) {
				r.work()
			}
		})
	}
	return r, nil
}

// Stop ends the load after the requests in flight and reports.
func (r *Running) Stop() *Report {
	r.cancel()
	return r.Wait()
}

// Wait waits for the end that the Config sets and reports.
func (r *Running) Wait() *Report {
	r.workers.Wait()
	r.cancel()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.report
}

func (r *Running) work() {
	w := &client{cfg: &r.cfg, url: r.url}
	defer w.close()
	for {
		if r.cfg.Requests > 0 && r.tickets.Add(1) > int64(r.cfg.Requests) {
			return
		}
		if !sleep(r.stop, r.gate.next()) {
			return
		}
		res := w.do()
		r.mu.Lock()
		r.report.add(res)
		if r.cfg.Observe != nil {
			r.cfg.Observe(res)
		}
		r.mu.Unlock()
		if res.Err != nil && !sleep(r.stop, 2*time.Millisecond) {
			return // a refused connection returns at once: do not spin
		}
	}
}

// sleep returns false when the load is over.
func sleep(stop <-chan struct{}, d time.Duration) bool {
	if d <= 0 {
		select {
		case <-stop:
			return false
		default:
			return true
		}
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-stop:
		return false
	case <-t.C:
		return true
	}
}

// gate spaces requests evenly in time.
type gate struct {
	mu    sync.Mutex
	every time.Duration
	at    time.Time
}

func newGate(rate float64) *gate {
	if rate == 0 {
		return &gate{}
	}
	return &gate{every: time.Duration(float64(time.Second) / rate)}
}

// next says how long to wait for one's turn.
func (g *gate) next() time.Duration {
	if g.every == 0 {
		return 0
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if g.at.Before(now.Add(-100 * time.Millisecond)) {
		g.at = now // do not make up for a long stall with a burst
	}
	g.at = g.at.Add(g.every)
	return g.at.Sub(now)
}
