package gatewaysecrets

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/state"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quick lets tests see beats. Nothing is decided by how long they take.
var quick = Times{Beat: 50 * time.Millisecond, Write: time.Second, Life: time.Hour}

// controller is a Publisher behind a server. What is used and who serves are fields, not Gateways and Nodes.
type controller struct {
	t    *testing.T
	objs *kube.Objects
	*Publisher
	server *httptest.Server

	mu    sync.Mutex
	used  []string
	nodes map[string]bool
}

// streamsOf counts the streams of a node.
func (c *controller) streamsOf(node string) int {
	c.Publisher.mu.Lock()
	defer c.Publisher.mu.Unlock()
	return len(c.streams[node])
}

func newController(t *testing.T, times Times) *controller {
	c := &controller{t: t, objs: kube.NewObjects(state.NewDB())}
	loaded := make(chan struct{})
	close(loaded)
	c.Publisher = NewPublisher(PublisherConfig{
		Objects: c.objs, Times: times, Loaded: loaded, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Used: func(s *state.Snapshot) ([]string, int) {
			_ = c.objs.Secrets.Len(s) // so that a change of what is used is seen with the change of a Secret
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.used, 0
		},
		Bundles: func(s *state.Snapshot) (keys []string, left int) {
			for m := range c.objs.ConfigMaps.All(s) {
				keys = append(keys, kube.Key(m))
			}
			return keys, 0
		},
		Nodes: func(*state.Snapshot) map[string]bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.nodes
		},
	})
	c.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.Serve(w, r, r.Header.Get("Node"))
	}))
	c.server.EnableHTTP2 = true
	c.server.Config.WriteTimeout = 20 * time.Second
	c.server.StartTLS()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		c.server.CloseClientConnections()
		c.server.Close()
	})
	return c
}

// set makes Secrets used, or changes who serves; the text is the chain.
func (c *controller) set(nodes map[string]bool, secrets map[string]string) {
	c.t.Helper()
	c.mu.Lock()
	c.nodes, c.used = nodes, nil
	for key := range secrets {
		c.used = append(c.used, key)
	}
	c.mu.Unlock()
	w := c.objs.DB.Write(c.objs.Secrets)
	defer w.Commit()
	for s := range c.objs.Secrets.All(w.Snapshot()) {
		if _, ok := secrets[kube.Key(s)]; !ok {
			c.objs.Secrets.Delete(w, kube.Key(s))
		}
	}
	for key, text := range secrets {
		c.objs.Secrets.Put(w, secret(key, text))
	}
	c.objs.Secrets.Put(w, secret("touched/x", fmt.Sprint(time.Now().UnixNano())))
}

func secret(key, chain string) *corev1.Secret {
	var s corev1.Secret
	for i, c := range key {
		if c == '/' {
			s.ObjectMeta = metav1.ObjectMeta{Namespace: key[:i], Name: key[i+1:]}
		}
	}
	s.Type, s.Data = corev1.SecretTypeTLS, map[string][]byte{corev1.TLSCertKey: []byte(chain), corev1.TLSPrivateKeyKey: []byte("key")}
	return &s
}

// open is a stream of a node.
func (c *controller) open(node string) func(context.Context) (io.ReadCloser, error) {
	// Agents are on different machines: each has a connection of its own.
	transport := c.server.Client().Transport.(*http.Transport).Clone()
	c.t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	return func(ctx context.Context) (io.ReadCloser, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.server.URL+Path, nil)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Node", node)
		res, err := client.Do(r)
		if err != nil {
			return nil, err
		}
		return res.Body, nil
	}
}

// agent is a Receiver with its tables.
type agent struct {
	t    *testing.T
	objs *kube.Objects
	st   *state.State
	*Receiver
	stop func()
}

func newAgent(t *testing.T, file string, open func(context.Context) (io.ReadCloser, error)) *agent {
	db := state.NewDB()
	a := &agent{t: t, objs: kube.NewObjects(db), st: state.New(db)}
	a.Receiver = NewReceiver(ReceiverConfig{
		Objects: a.objs, State: a.st, Open: open, File: file,
		Times: Times{Beat: 10 * time.Second}, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	return a
}

func (a *agent) run() *agent {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	a.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			a.t.Error(err)
		}
	})
	a.t.Cleanup(a.stop)
	return a
}

// holds returns the keys of the Secrets with their chains.
func (a *agent) holds() map[string]string {
	out := map[string]string{}
	for s := range a.objs.Secrets.All(a.st.Snapshot()) {
		out[kube.Key(s)] = string(s.Data[corev1.TLSCertKey])
	}
	return out
}

func (a *agent) serves() bool { return a.st.ServesGateways(a.st.Snapshot()) }

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within a minute: %s", what)
}
