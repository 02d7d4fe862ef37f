package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"

	"github.com/weft-mesh/weft/internal/testenv"
)

// traces runs the scripts in testdata, of what a collector gets. Their commands:
//
//	apply FILE...           writes manifests; those of one name replace each other, and end with the script
//	request sampled ADDR    asks ADDR, a Gateway, from outside until the backend hears that the request is sampled; $path is that
//	                        request's path
//	request unsampled ADDR  the same until it hears that it is not
//	span PATH               waits for the Gateway's span of a request, and prints its name and attributes
//	! span PATH             there is none
//	status KIND/NS/NAME     waits until each of the object's conditions is true, and prints them
func traces(t *testing.T, m *mesh) {
	got := &spanLog{}
	m.collect(t, got)
	requests := 0
	testscript.Run(t, testscript.Params{Dir: "testdata", Cmds: map[string]func(*testscript.TestScript, bool, []string){
		"apply": func(ts *testscript.TestScript, _ bool, files []string) {
			for _, f := range files {
				to := "script/" + f
				ts.Check(m.Write(to, []byte(ts.ReadFile(f))))
				ts.Defer(func() { _ = os.Remove(filepath.Join(m.Manifests(), to)) })
			}
		},
		"request": func(ts *testscript.TestScript, _ bool, args []string) {
			if len(args) != 2 || args[0] != "sampled" && args[0] != "unsampled" {
				ts.Fatalf("usage: request sampled|unsampled ADDRESS")
			}
			again(ts, func() error {
				requests++
				path := fmt.Sprintf("/request/%d", requests)
				a, err := call(m.outside, args[1], request{path: path, host: "traced.example"})
				if err != nil {
					return err
				}
				if parent := a.saw.Header.Get("traceparent"); a.status != 200 || strings.HasSuffix(parent, "-01") != (args[0] == "sampled") {
					return fmt.Errorf("%s: status %d, traceparent %q", path, a.status, parent)
				}
				ts.Setenv("path", path)
				return nil
			})
		},
		"span": func(ts *testscript.TestScript, neg bool, args []string) {
			if len(args) != 1 {
				ts.Fatalf("usage: [!] span PATH")
			}
			if text, ok := got.of(args[0]); neg {
				if ok {
					ts.Fatalf("there is a span of %s: %s", args[0], text)
				}
				return
			}
			again(ts, func() error {
				text, ok := got.of(args[0])
				if !ok {
					return errors.New("no span of " + args[0])
				}
				_, err := io.WriteString(ts.Stdout(), text)
				return err
			})
		},
		"status": func(ts *testscript.TestScript, _ bool, args []string) {
			if len(args) != 1 {
				ts.Fatalf("usage: status KIND/NAMESPACE/NAME")
			}
			again(ts, func() error {
				out, _ := m.weft(t, "config", "status", "-A")
				text := ""
				for l := range strings.Lines(out) {
					if strings.Contains(l, args[0]) {
						text += l
					}
				}
				if text == "" || strings.Contains(text, "False") {
					return fmt.Errorf("%s: %s", args[0], text)
				}
				_, err := io.WriteString(ts.Stdout(), text)
				return err
			})
		},
	}})
}

// again tries until f succeeds.
func again(ts *testscript.TestScript, f func() error) {
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	ts.Check(err)
}

// collect takes spans in the pod plain/c at port 4317. With $OTEL_COLLECTOR that program does, and hands them on.
func (m *mesh) collect(t *testing.T, got *spanLog) {
	t.Helper()
	l, err := m.Pod("plain", "c").Listen("tcp", ":4317")
	if err != nil {
		t.Fatal(err)
	}
	program := os.Getenv("OTEL_COLLECTOR")
	if program == "" {
		g := grpc.NewServer()
		g.RegisterService(testenv.TraceService(func(_ context.Context, r *trace.TracesData) { got.take(r) }), nil)
		go func() { _ = g.Serve(l) }()
		t.Cleanup(g.Stop)
		return
	}
	at := testenv.TraceCollector(t, program, got.take) // in the network of the test
	var all sync.WaitGroup
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { passOn(in, at) })
		}
	})
	t.Cleanup(func() { _ = l.Close() })
}

// passOn copies a connection both ways until either end is done.
func passOn(in net.Conn, to string) {
	defer in.Close()
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer out.Close()
	go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
	_, _ = io.Copy(in, out)
}

// spanLog keeps the spans that a collector got.
type spanLog struct {
	mu  sync.Mutex
	all []string // name, then attributes of the resource and of the span, a line each
}

func (s *spanLog) take(r *trace.TracesData) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range r.ResourceSpans {
		for _, scope := range of.ScopeSpans {
			for _, sp := range scope.Spans {
				if sp.Kind != trace.Span_SPAN_KIND_SERVER {
					continue
				}
				text := "name=" + sp.Name + "\n"
				for _, kv := range append(of.Resource.Attributes, sp.Attributes...) {
					text += kv.Key + "=" + kv.Value.GetStringValue() + "\n"
				}
				s.all = append(s.all, text)
			}
		}
	}
}

// of returns the span of a request with a path.
func (s *spanLog) of(path string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, text := range s.all {
		if strings.Contains(text, path+"\n") {
			return text, true
		}
	}
	return "", false
}
