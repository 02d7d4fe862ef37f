package nodereport

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"

	"github.com/weft-mesh/weft/internal/state"
)

const (
	// LeasePrefix and the name of a node are the name of the node's Lease.
	LeasePrefix = "weft-report-"
	// Annotation of the Lease that holds the report.
	Annotation = "weft.io/report"
	// Selector picks the Leases with reports among those of the namespace.
	Selector = "app.kubernetes.io/name=weft,app.kubernetes.io/component=report"

	defaultNamespace = "weft-system"
)

// Config of a Writer.
type Config struct {
	Kube      *rest.Config
	Namespace string // of the Lease; "" is weft-system
	Node      string
	Times     Times // DefaultTimes if zero
	Log       *slog.Logger
}

// Times of a Writer.
type Times struct {
	Pause  time.Duration // between two writes, at least
	Renew  time.Duration // between two writes of a report that does not change
	Lasts  time.Duration // of a report without renewal; whole seconds
	Settle time.Duration // in which Envoy has answered an agent that starts
	Look   time.Duration // between two looks at what time alone changes
}

// DefaultTimes cost the API server one write in 20 s of a node that has something to say.
var DefaultTimes = Times{Pause: 2 * time.Second, Renew: 20 * time.Second, Lasts: time.Minute, Settle: 15 * time.Second, Look: time.Second}

// maxPause bounds the pause between two attempts to write.
const maxPause = 30 * time.Second

// Writer keeps the report of a node.
type Writer struct {
	cfg      Config
	st       *state.State
	composer composer
	resumed  bool
	text     string // what the Lease holds
	wrote    time.Time
	failed   bool // the last attempt to write
}

// New makes a Writer that reads st.Rejections and st.Proxies.
func New(st *state.State, cfg Config) *Writer {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Namespace == "" {
		cfg.Namespace = defaultNamespace
	}
	if cfg.Times == (Times{}) {
		cfg.Times = DefaultTimes
	}
	return &Writer{cfg: cfg, st: st, composer: composer{st: st}}
}

// Run keeps the Lease until the context ends. The Lease stays: the next agent goes on with it, or it ends.
func (w *Writer) Run(ctx context.Context) error {
	leases, err := w.client()
	if err != nil {
		return err
	}
	look := time.NewTicker(w.cfg.Times.Look)
	defer look.Stop()
	var next time.Time
	pause := w.cfg.Times.Pause
	for {
		if now := time.Now(); !now.Before(next) {
			wrote, err := w.step(ctx, leases, now)
			w.note(ctx, err)
			switch {
			case err != nil:
				next, pause = now.Add(pause), min(2*pause, maxPause)
			case wrote:
				next, pause = now.Add(w.cfg.Times.Pause), w.cfg.Times.Pause
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
	}
}

func (w *Writer) client() (clientv1.LeaseInterface, error) {
	cfg := rest.CopyConfig(w.cfg.Kube)
	cfg.Timeout, cfg.QPS = w.cfg.Times.Renew, -1
	cfg.ContentType = runtime.ContentTypeProtobuf
	c, err := clientv1.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("client for Leases: %w", err)
	}
	return c.Leases(w.cfg.Namespace), nil
}

// step writes the Lease if it is to say something else, or must be renewed.
func (w *Writer) step(ctx context.Context, leases clientv1.LeaseInterface, now time.Time) (wrote bool, err error) {
	if !w.resumed {
		if err := w.resume(ctx, leases, now); err != nil {
			return false, err
		}
		w.resumed = true
	}
	text := w.composer.report(w.st.Snapshot(), now).Encode()
	if text == w.text && (text == "" || now.Sub(w.wrote) < w.cfg.Times.Renew) {
		return false, nil
	}
	if err := w.write(ctx, leases, text, now); err != nil {
		return false, err
	}
	w.text, w.wrote = text, now
	return true, nil
}

// resume reads what the agent before this one wrote.
func (w *Writer) resume(ctx context.Context, leases clientv1.LeaseInterface, now time.Time) error {
	l, err := leases.Get(ctx, w.lease(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	w.text = l.Annotations[Annotation]
	before, err := Decode(w.cfg.Node, w.text)
	if err != nil {
		w.cfg.Log.Warn("the last report of this node cannot be read, and a new one replaces it", "error", err)
	}
	for _, x := range before.Refused {
		x.Node = "" // as in the node's own rows
	}
	w.composer.resume(before, now.Add(w.cfg.Times.Settle))
	return nil
}

func (w *Writer) lease() string { return LeasePrefix + w.cfg.Node }

func (w *Writer) write(ctx context.Context, leases clientv1.LeaseInterface, text string, now time.Time) error {
	l, err := leases.Get(ctx, w.lease(), metav1.GetOptions{})
	there := err == nil
	switch {
	case apierrors.IsNotFound(err):
		l = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: w.lease()}}
	case err != nil:
		return err
	}
	if l.Labels == nil {
		l.Labels = map[string]string{}
	}
	l.Labels["app.kubernetes.io/name"], l.Labels["app.kubernetes.io/component"] = "weft", "report"
	if l.Annotations == nil {
		l.Annotations = map[string]string{}
	}
	if l.Annotations[Annotation] = text; text == "" {
		delete(l.Annotations, Annotation)
	}
	seconds := int32(w.cfg.Times.Lasts / time.Second)
	l.Spec.HolderIdentity, l.Spec.LeaseDurationSeconds = &w.cfg.Node, &seconds
	l.Spec.RenewTime = &metav1.MicroTime{Time: now.Truncate(time.Microsecond)} // what the API server keeps
	if there {
		_, err = leases.Update(ctx, l, metav1.UpdateOptions{})
	} else {
		_, err = leases.Create(ctx, l, metav1.CreateOptions{})
	}
	return err
}

// note logs when writing begins and ends to fail.
func (w *Writer) note(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	switch {
	case err != nil && !w.failed:
		w.cfg.Log.Warn("failed to write the report of this node; conditions do not say what its Envoy refuses",
			"lease", w.cfg.Namespace+"/"+w.lease(), "error", err)
	case err == nil && w.failed:
		w.cfg.Log.Info("the report of this node is written again", "lease", w.cfg.Namespace+"/"+w.lease())
	}
	w.failed = err != nil
}
