package agent

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAnAgentThatIsNotFoundIsNotHealthy: somebody removes the run directory, and an agent that went on would let no
// strict pod start.
func TestAnAgentThatIsNotFoundIsNotHealthy(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run")
	listen := func(name string) net.Listener {
		t.Helper()
		l, err := listenUnix(filepath.Join(run, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	if err := os.Mkdir(run, 0o700); err != nil {
		t.Fatal(err)
	}
	a := &Agent{xdsSocket: listen("xds.sock"), apiSocket: listen("agent.sock"), node: &node{socket: listen("cni.sock")}}
	healthz := func() *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		a.health().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/healthz", nil))
		return w
	}
	if w := healthz(); w.Code != http.StatusOK {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	if err := os.RemoveAll(run); err != nil {
		t.Fatal(err)
	}
	if w := healthz(); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "cni.sock") {
		t.Errorf("without the run directory: %d: %s", w.Code, w.Body)
	}
	if err := a.watchSockets(t.Context()); err == nil || !strings.Contains(err.Error(), "cni.sock") {
		t.Errorf("it goes on where nobody finds it: %v", err)
	}
	if err := os.Mkdir(run, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"xds.sock", "agent.sock", "cni.sock"} {
		listen(name)
	}
	if w := healthz(); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "another socket") {
		t.Errorf("with sockets of another: %d: %s", w.Code, w.Body)
	}
}
