package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
)

// postsLast is how long POSTs are made after a policy has come into force: longer than any second look at connections could take.
const postsLast = 2 * time.Second

// inForce: a policy comes into force while POSTs are made, which no proxy may send again. The connections that it may narrow are ended
// once. What was made by the new rules is not touched.
func inForce(t *testing.T, m *mesh) {
	t.Run("narrower", func(t *testing.T) { narrower(t, m) })
	t.Run("a new pod", func(t *testing.T) { newPod(t, m) })
}

func narrower(t *testing.T, m *mesh) {
	alice := m.Pod("strict", "alice")
	to := at(serviceIPs("guard", "l7")[0], 80)
	m.apply(t, policy(fromAlice+"      http: [{methods: [GET, POST]}]\n"))
	until(t, "the first policy", func() error { return want(alice, to, request{path: "/", method: "PUT"}, 403, "") })
	time.Sleep(drained) // what the first policy forbids has ended
	p := startPosts(t, alice, to)
	closed := closings(t, m, "guard/srv")
	m.apply(t, policy(fromAlice+"      http: [{methods: [POST]}]\n"))
	until(t, "connections are ended", func() error {
		if closings(t, m, "guard/srv") == closed {
			return fmt.Errorf("none was")
		}
		return nil
	})
	// One that goes by a connection that is ended just now may begin after its end was logged.
	seen := time.Now()
	until(t, "a POST that began later is answered", func() error { return p.answered(seen) })
	since := time.Now()
	time.Sleep(postsLast)
	p.end(t, since)
	if err := want(alice, to, request{path: "/"}, 403, ""); err != nil {
		t.Error(err)
	}
}

// newPod: nothing that a pod has is from before its policy, so nothing of it is ended.
func newPod(t *testing.T, m *mesh) {
	const ip = "10.97.0.99"
	files := fstest.MapFS{"late/all.yaml": {Data: []byte(namespaceManifest("late", "strict") + "---\n" + podManifest("late", "srv", "srv", "") + "---\n" +
		strings.ReplaceAll(policy(fromAlice+"      http: [{methods: [POST]}]\n"), "namespace: guard", "namespace: late") + `---
apiVersion: v1
kind: Service
metadata: {name: srv, namespace: late, labels: {weft.io/l7: enabled}}
spec:
  clusterIP: ` + ip + `
  selector: {pod: srv}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
`)}}
	if err := m.Apply(t.Context(), files, "late"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Join(m.Manifests(), "late")) })
	m.serve(t, "late", "srv")
	alice := m.Pod("strict", "alice")
	until(t, "the pod answers", func() error {
		if fault := post(&http.Transport{DialContext: alice.Dial, DisableKeepAlives: true}, "http://"+ip, time.Second); fault != "" {
			return errors.New(fault)
		}
		return nil
	})
	since := time.Now()
	p := startPosts(t, alice, ip+":80")
	time.Sleep(postsLast)
	p.end(t, since)
	if n := closings(t, m, "late/srv"); n > 0 {
		t.Errorf("connections were ended, %d times", n)
	}
	if err := want(alice, ip+":80", request{path: "/"}, 403, ""); err != nil {
		t.Error(err)
	}
}

// closings counts how often connections to a workload were ended.
func closings(t *testing.T, m *mesh, workload string) int {
	t.Helper()
	text, err := os.ReadFile(m.AgentLog())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "closed connections that the policy does not allow any more") && strings.Contains(line, `"`+workload+`"`) {
			n++
		}
	}
	return n
}

// posts are being made.
type posts struct {
	stop   context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex
	made   []time.Time
	failed map[time.Time]string // by when it began
}

// startPosts makes POSTs, a few at a time, each after a pause.
func startPosts(t *testing.T, from *lab.Pod, to string) *posts {
	ctx, stop := context.WithCancel(t.Context())
	p := &posts{stop: stop, failed: map[time.Time]string{}}
	for range 4 {
		p.wg.Go(func() {
			tr := &http.Transport{DialContext: from.Dial}
			defer tr.CloseIdleConnections()
			for ctx.Err() == nil {
				began := time.Now()
				fault := post(tr, "http://"+to+"/posts", patience)
				p.mu.Lock()
				p.made = append(p.made, began)
				if fault != "" {
					p.failed[began] = fault
				}
				p.mu.Unlock()
				time.Sleep(3 * time.Millisecond)
			}
		})
	}
	t.Cleanup(func() { stop(); p.wg.Wait() })
	return p
}

// post returns what was wrong with the answer; "" is nothing.
func post(tr *http.Transport, url string, timeout time.Duration) string {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("body"))
	if err != nil {
		return err.Error()
	}
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Sprintf("status %d, %.200q, %v", resp.StatusCode, body, err)
	}
	return ""
}

// answered returns an error unless a POST that began after since was answered.
func (p *posts) answered(since time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, began := range p.made {
		if _, failed := p.failed[began]; began.After(since) && !failed {
			return nil
		}
	}
	return errors.New("none was")
}

// end stops the POSTs. None that began after since may have failed.
func (p *posts) end(t *testing.T, since time.Time) {
	t.Helper()
	p.stop()
	p.wg.Wait()
	made, before := 0, 0
	for _, began := range p.made {
		if !began.Before(since) {
			made++
		}
	}
	for began, fault := range p.failed {
		if began.Before(since) {
			before++
		} else {
			t.Errorf("a POST that began %v later: %s", began.Sub(since), fault)
		}
	}
	t.Logf("%d POSTs before the policy was in force, of which %d failed, and %d after", len(p.made)-made, before, made)
	if made == 0 {
		t.Error("no POST was made")
	}
}
