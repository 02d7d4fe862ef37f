package node

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/lab"
)

// sink is a server that says nothing before its client has ended.
type sink struct{ read chan string }

// newSink serves in the pods of an application, on port 7171.
func newSink(t *testing.T, m *mesh, namespace, app string) *sink {
	s := &sink{read: make(chan string, 16)}
	pods := []string{app}
	if app == "echo" {
		pods = []string{"s1", "s2"}
	}
	for _, p := range pods {
		l, err := m.Pod(namespace, p).Listen("tcp", ":7171")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go s.serve(c)
			}
		}()
	}
	return s
}

func (s *sink) serve(c net.Conn) {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	text, err := io.ReadAll(c)
	if err != nil {
		text = fmt.Appendf(text, ", %v", err)
	}
	s.read <- string(text)
	_, _ = fmt.Fprintf(c, "got %s", text)
}

// ends compares clients that close at once, behind what they said or without a word: one who waits for an answer and one who does not.
func (s *sink) ends(t *testing.T, client *lab.Pod, service, pod string) {
	for _, text := range []string{"metric 1\n", "no line", "GET", "GET / HTTP/1.1", "\x16\x03", ""} {
		for _, to := range []string{pod, service} {
			for _, waits := range []bool{true, false} {
				answer, err := sayAndEnd(client, to, text, waits)
				if want := "got " + text; waits && (answer != want || err != nil) || err != nil {
					t.Errorf("%s, %q and an end, waits for an answer %t: %q, %v, want %q", to, text, waits, answer, err, want)
				}
				select {
				case read := <-s.read:
					if read != text {
						t.Errorf("%s, waits for an answer %t: the server read %q, want %q", to, waits, read, text)
					}
				case <-time.After(patience):
					t.Errorf("%s, waits for an answer %t: %q and the end did not come to the server", to, waits, text)
				}
			}
		}
	}
}

// sayAndEnd sends a text and closes. If it waits, it closes its own side only, and reads to the end.
func sayAndEnd(from *lab.Pod, to, text string, waits bool) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", to)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, text); err != nil || !waits {
		return "", err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(c)
	return string(answer), err
}
