package gatewaysecrets

import (
	"context"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// streamsOfNode is how many streams a node may have: an agent's, and that of the next one, which starts beside it. The
// oldest gives way to another.
const streamsOfNode = 2

// stream is an agent's.
type stream struct {
	node    string
	out     http.ResponseWriter
	control *http.ResponseController
	times   Times
	end     context.CancelFunc

	seen    *published                // what was sent last
	sent    map[string]*corev1.Secret // what the agent has
	bundles map[string]*corev1.ConfigMap
	refused bool // the agent knows that it may not serve Gateways
}

// Serve answers the request of the agent of a node. The caller has authenticated it.
func (p *Publisher) Serve(w http.ResponseWriter, r *http.Request, node string) {
	if r.ProtoMajor < 2 {
		http.Error(w, "HTTP/2 is needed", http.StatusHTTPVersionNotSupported)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	s := &stream{node: node, out: w, control: http.NewResponseController(w), times: p.cfg.Times, end: cancel, sent: map[string]*corev1.Secret{}}
	p.add(s)
	defer p.remove(s)
	w.Header().Set("Content-Type", "application/x-ndjson")
	if err := p.follow(ctx, s); err != nil {
		p.cfg.Log.Debug("a stream of Secrets ended", "node", node, "error", err)
	}
}

// add ends the oldest stream of a node that has too many.
func (p *Publisher) add(s *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := append(p.streams[s.node], s)
	if len(all) > streamsOfNode {
		all[0].end()
		all = all[1:]
	}
	p.streams[s.node] = all
}

func (p *Publisher) remove(s *stream) {
	s.end()
	p.mu.Lock()
	defer p.mu.Unlock()
	all := slices.DeleteFunc(slices.Clone(p.streams[s.node]), func(o *stream) bool { return o == s })
	if len(all) == 0 {
		delete(p.streams, s.node)
		return
	}
	p.streams[s.node] = all
}

// follow sends what is published until the stream ends. An agent that does not read holds nothing but its own stream: there
// is no queue, and what changes meanwhile is compared with what it was sent when it reads again.
func (p *Publisher) follow(ctx context.Context, s *stream) error {
	life := time.NewTimer(s.times.Life/2 + rand.N(s.times.Life/2+1)) // agents that came together do not come back together
	defer life.Stop()
	beat := time.NewTicker(s.times.Beat)
	defer beat.Stop()
	for {
		now, changed := p.look()
		if err := s.send(now); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.ended:
			return nil
		case <-life.C:
			return nil
		case <-changed:
		case <-beat.C:
		}
	}
}

// send brings the agent to what is published, or if it has that, lets it know that the stream lives.
func (s *stream) send(now *published) error {
	var batch []message
	switch {
	case now == nil || now == s.seen:
		batch = []message{{}}
	case !now.serves(s.node):
		batch = bundleChanges(s.bundles, now.bundles)
		if !s.refused || len(batch) > 0 {
			batch = append(batch, message{Refused: true})
		}
		s.refused, s.sent, s.bundles = true, map[string]*corev1.Secret{}, now.bundles
	default:
		batch = slices.Concat(bundleChanges(s.bundles, now.bundles), secretChanges(s.sent, now.secrets), []message{{Complete: true}})
		s.refused, s.sent, s.bundles = false, now.secrets, now.bundles
	}
	s.seen = now
	encoder := json.NewEncoder(s.out)
	for _, m := range batch {
		if err := s.extend(); err != nil {
			return err
		}
		if err := encoder.Encode(m); err != nil {
			return err
		}
	}
	if err := s.extend(); err != nil { // also where there was nothing to send
		return err
	}
	return s.control.Flush()
}

// extend gives the agent the time to read the next message, which comes after a beat at the latest.
func (s *stream) extend() error {
	return s.control.SetWriteDeadline(time.Now().Add(s.times.Beat + s.times.Write))
}

// secretChanges returns what makes of the Secrets of one map those of another.
func secretChanges(from, to map[string]*corev1.Secret) []message {
	return changes(from, to,
		func(key string) message { return message{Delete: key} },
		func(s *corev1.Secret) message { return message{Put: certificateOf(s)} })
}

// changes returns the messages that make of one map another, those that remove first, in the order of the keys.
func changes[T any](from, to map[string]*T, remove func(key string) message, put func(*T) message) []message {
	var out []message
	for _, key := range slices.Sorted(maps.Keys(from)) {
		if to[key] == nil {
			out = append(out, remove(key))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(to)) {
		if from[key] != to[key] {
			out = append(out, put(to[key]))
		}
	}
	return out
}
