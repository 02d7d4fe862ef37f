package gatewaysecrets

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// ReceiverConfig of a Receiver.
type ReceiverConfig struct {
	Objects *kube.Objects
	State   *state.State
	// Open opens the stream at a controller.
	Open func(context.Context) (io.ReadCloser, error)
	// File keeps what was received for the next agent; "" for nowhere.
	File string
	// Times are DefaultTimes if zero.
	Times Times
	Log   *slog.Logger
}

// Receiver writes the Secrets and ConfigMaps that the controller sends into their tables, and the node's role.
type Receiver struct {
	cfg   ReceiverConfig
	known chan struct{}
	once  sync.Once
}

// NewReceiver makes a Receiver that starts from what the last one kept.
func NewReceiver(cfg ReceiverConfig) *Receiver {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Times == (Times{}) {
		cfg.Times = DefaultTimes
	}
	r := &Receiver{cfg: cfg, known: make(chan struct{})}
	switch h, err := r.load(); {
	case err != nil:
		cfg.Log.Warn("the Secrets of Gateways that were kept are of no use; the controller's are waited for", "error", err)
	case h != nil:
		r.take(h)
	}
	return r
}

// Known is closed when a controller has said what this node may have, to this agent or an earlier one.
func (r *Receiver) Known() <-chan struct{} { return r.known }

// errEnded is the end of every stream that no other error ended.
var errEnded = errors.New("the controller ended the stream")

const firstRetry, lastRetry = 250 * time.Millisecond, 10 * time.Second

// Run follows the controller until ctx ends.
func (r *Receiver) Run(ctx context.Context) error {
	wait, failures := firstRetry, 0
	for {
		answered, err := r.follow(ctx)
		if answered {
			wait, failures = firstRetry, 0
		} else {
			failures++
		}
		if failures > 1 && ctx.Err() == nil { // at the start the controller may not be known yet
			r.setProblem(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait/2 + rand.N(wait/2+1)):
		}
		if !answered {
			wait = min(2*wait, lastRetry)
		}
	}
}

// held is what the controller says that this node may have.
type held struct {
	refused bool
	secrets map[string]*corev1.Secret
	bundles map[string]*corev1.ConfigMap
}

func newHeld() *held {
	return &held{secrets: map[string]*corev1.Secret{}, bundles: map[string]*corev1.ConfigMap{}}
}

// follow takes what one stream brings, until it ends. It reports whether the controller said anything.
func (r *Receiver) follow(ctx context.Context) (answered bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, err := r.cfg.Open(ctx)
	if err != nil {
		return false, err
	}
	defer body.Close()
	silent := time.AfterFunc(3*r.cfg.Times.Beat, cancel)
	defer silent.Stop()
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxLine)
	h := newHeld()
	for lines.Scan() {
		silent.Reset(3 * r.cfg.Times.Beat)
		var m message
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			return answered, fmt.Errorf("a message that is not understood: %w", err)
		}
		complete, err := h.add(&m)
		if err != nil {
			return answered, err
		}
		if complete {
			answered = true
			r.setProblem(nil)
			r.take(h)
			r.keep(h)
		}
	}
	return answered, cmp.Or(lines.Err(), errEnded)
}

// add takes a message in, and reports whether what is held now is in force.
func (h *held) add(m *message) (complete bool, err error) {
	switch {
	case m.Refused:
		h.refused, h.secrets = true, map[string]*corev1.Secret{}
		return true, nil
	case m.Put != nil:
		if n := len(m.Put.Chain) + len(m.Put.Key); n > maxSecret {
			return false, fmt.Errorf("secret %s of %d bytes: at most %d are taken", m.Put, n, maxSecret)
		}
		s := m.Put.secret()
		h.secrets[kube.Key(s)] = s
		if len(h.secrets) > maxSecrets {
			return false, fmt.Errorf("more than %d Secrets", maxSecrets)
		}
	case m.Delete != "":
		delete(h.secrets, m.Delete)
	case m.PutBundle != nil:
		return false, h.addBundle(m.PutBundle)
	case m.DeleteBundle != "":
		delete(h.bundles, m.DeleteBundle)
	case m.Complete:
		h.refused = false
		return true, nil
	}
	return false, nil
}

// take makes the tables hold what the node may have, in one transaction.
func (r *Receiver) take(h *held) {
	objs, st := r.cfg.Objects, r.cfg.State
	w := objs.DB.Write(objs.Secrets, objs.ConfigMaps, st.Role)
	defer w.Abort()
	replace(r, w, "Secret", objs.Secrets, h.secrets)
	replace(r, w, "ConfigMap", objs.ConfigMaps, h.bundles)
	if st.ServesGateways(w.Snapshot()) == h.refused {
		r.cfg.Log.Info("the controller says whether this node may serve Gateways", "may", !h.refused)
	}
	st.Role.Put(w, &model.NodeRole{Gateways: !h.refused})
	w.Commit()
	r.once.Do(func() { close(r.known) })
}

// setProblem notes why the controller's Secrets cannot be had; nil for nothing.
func (r *Receiver) setProblem(err error) {
	objs := r.cfg.Objects
	ref := model.ObjectRef{Kind: "Secret"}
	before := objs.ProblemsOf(objs.DB.Snapshot(), ref)
	var now *kube.Problem
	if err != nil {
		p := kube.Problem{File: "controller", Object: ref, Reason: fmt.Sprintf(
			"failed to get the certificates of Gateways from the controller; this node keeps those that it has: %v", err)}.Bounded()
		now = &p
	}
	if len(before) == 1 && now != nil && *before[0] == *now || len(before) == 0 && now == nil {
		return
	}
	w := objs.DB.Write(objs.Problems)
	defer w.Commit()
	for _, p := range before {
		objs.Problems.Delete(w, p.Key())
	}
	if now == nil {
		r.cfg.Log.Info("the controller sends the certificates of Gateways")
		return
	}
	objs.Problems.Put(w, now)
	r.cfg.Log.Warn("failed to get the certificates of Gateways from the controller; this node keeps those that it has", "error", err)
}

// replace makes the table of a kind hold these objects, and no others.
func replace[T interface {
	metav1.Object
	runtime.Object
}](r *Receiver, w *state.Write, kind string, table *state.Table[T], want map[string]T) {
	for o := range table.All(w.Snapshot()) {
		if _, ok := want[kube.Key(o)]; !ok {
			table.Delete(w, kube.Key(o))
		}
	}
	for _, o := range want {
		if err := r.cfg.Objects.Put(w, o); err != nil {
			r.cfg.Log.Warn("a "+kind+" of the controller is left out", "error", err)
		}
	}
}
