package pods

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/sockdiag"
)

// TestLastBytes: a pod's answer arrives though its server has ended, weft tunnel has not read the answer yet, and the container
// runtime takes the network away as soon as the plugin lets it. Afterwards no connection to the pod is left at its peers.
func TestLastBytes(t *testing.T) {
	n := newNode(t)
	defer n.clean()
	n.api.namespace("bank", "strict")
	n.start()
	n.ready()
	n.chain()
	server, client := n.newPod("bank", "server"), n.newPod("bank", "client")
	for _, p := range []*pod{server, client} {
		if _, err := p.cni("ADD"); err != nil {
			t.Fatalf("ADD of %s: %v", p.name, err)
		}
		p.object(p.Address.String())
		p.inCgroup()
	}
	s := serveOnce(t, server)
	url := "http://" + net.JoinHostPort(server.Address.String(), "8080")
	for _, path := range []string{"/warm", "/warm"} {
		n.eventually("the client reaches the server", func() error {
			if got := (<-client.curl(t, url+path)); got != "200 3" {
				return fmt.Errorf("curl: %s", got)
			}
			return nil
		})
	}
	if client.connections(t, server) == 0 {
		t.Fatal("no session leads to the server: the bytes are not authenticated")
	}

	tunnel := n.tunnel()
	answer := client.curl(t, url+"/last")
	<-s.asked
	if err := syscall.Kill(tunnel, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	close(s.release)
	<-s.ended
	deleted := make(chan error, 1)
	go func() {
		_, err := server.cni("DEL")
		deleted <- err
	}()
	select {
	case err := <-deleted:
		server.unplug(t)
		_ = syscall.Kill(tunnel, syscall.SIGCONT)
		t.Errorf("DEL returns before the answer is read: %v", err)
	case <-time.After(500 * time.Millisecond):
		_ = syscall.Kill(tunnel, syscall.SIGCONT)
		if err := <-deleted; err != nil {
			t.Errorf("DEL: %v", err)
		}
		server.unplug(t)
	}
	if got, want := <-answer, "200 "+strconv.Itoa(lastBytes); got != want {
		t.Errorf("the client got %s, want %s", got, want)
	}
	n.eventually("the client keeps no connection to the pod", func() error {
		if left := client.connections(t, server); left > 0 {
			return fmt.Errorf("%d connections", left)
		}
		return nil
	})
}

const lastBytes = 64 << 10

// once is a server that ends with the request for /last.
type once struct{ asked, release, ended chan struct{} }

func serveOnce(t *testing.T, p *pod) *once {
	t.Helper()
	s := &once{make(chan struct{}), make(chan struct{}), make(chan struct{})}
	l, err := p.Listen("tcp", ":8080")
	if err != nil {
		t.Fatal(err)
	}
	var srv *http.Server
	srv = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := []byte("yes")
		if r.URL.Path == "/last" {
			close(s.asked)
			<-s.release
			body = make([]byte, lastBytes)
		}
		_, _ = w.Write(body)
		if r.URL.Path == "/last" {
			_ = http.NewResponseController(w).Flush()
			go func() {
				_ = srv.Shutdown(t.Context())
				close(s.ended)
			}()
		}
	})}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close() })
	return s
}

// curl asks from the pod, and gives the status and the number of bytes, or the error, once.
func (p *pod) curl(t *testing.T, url string) <-chan string {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command("curl", "-s", "-o", "/dev/null", "--max-time", "15", "-w", "%{http_code} %{size_download}", url)
	cmd.Stdout = &out
	if err := p.Start(cmd); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	go func() {
		text := ""
		if err := cmd.Wait(); err != nil {
			text = err.Error() + ": "
		}
		got <- text + out.String()
	}()
	return got
}

// unplug takes the pod's interface away, as the plugin that made it does after the mesh's.
func (p *pod) unplug(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("ip", "link", "del", p.HostLink).CombinedOutput(); err != nil {
		t.Errorf("take the interface away: %v: %s", err, out)
	}
}

// connections counts those of the pod's network namespace to another pod.
func (p *pod) connections(t *testing.T, to *pod) int {
	t.Helper()
	count := 0
	err := p.Do(func() error {
		all, err := sockdiag.TCP()
		for _, s := range all {
			if s.Live() && s.Remote.Addr() == to.Address {
				count++
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return count
}

// tunnel gives the process of weft tunnel.
func (n *node) tunnel() (pid int) {
	n.t.Helper()
	n.eventually("weft tunnel runs", func() error {
		text, err := os.ReadFile(n.path("run/tunnel.json"))
		if err != nil {
			return err
		}
		var r struct {
			Envoys []struct{ PID int }
		}
		if err := json.Unmarshal(text, &r); err != nil || len(r.Envoys) != 1 {
			return fmt.Errorf("weft proxy remembers %s: %w", text, err)
		}
		pid = r.Envoys[0].PID
		return nil
	})
	return pid
}
