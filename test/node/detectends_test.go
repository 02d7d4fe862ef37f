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

// endTexts are what clients send before they end.
var endTexts = []string{"metric 1\n", "no line", "GET", "GET / HTTP/1.1", "\x16\x03", ""}

// sink is a server that says nothing before its client has ended.
type sink struct {
	came map[string]chan struct{} // by text: one for each connection that brought it and ended
}

// newSink serves in the pods of an application, on port 7171.
func newSink(t *testing.T, m *mesh, namespace, app string) *sink {
	s := &sink{came: map[string]chan struct{}{}}
	for _, text := range endTexts {
		s.came[text] = make(chan struct{}, 16)
	}
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
	if came := s.came[string(text)]; err == nil && came != nil {
		came <- struct{}{}
	}
	_, _ = fmt.Fprintf(c, "got %s", text)
}

// ends compares clients that close at once, behind what they said or without a word: one who waits for an answer and one who does not.
func (s *sink) ends(t *testing.T, client *lab.Pod, service, pod string) {
	for _, text := range endTexts {
		t.Run(fmt.Sprintf("%q", text), func(t *testing.T) {
			t.Parallel()
			for _, to := range []string{pod, service} {
				for _, waits := range []bool{true, false} {
					answer, err := sayAndEnd(client, to, text, waits)
					if want := "got " + text; err != nil || waits && answer != want {
						t.Errorf("%s, waits for an answer %t: %q, %v, want %q", to, waits, answer, err, want)
					}
					select {
					case <-s.came[text]:
					case <-time.After(patience):
						t.Errorf("%s, waits for an answer %t: the text and the end did not come to the server", to, waits)
					}
				}
			}
		})
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
