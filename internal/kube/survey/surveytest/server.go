// Package surveytest is an API server for tests: it answers paths with what it is given, and runs agents' relays.
package surveytest

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// Object is an object as JSON has it.
type Object = map[string]any

// Meta returns metadata.
func Meta(namespace, name string, labels, annotations Object) Object {
	return Object{"namespace": namespace, "name": name, "labels": labels, "annotations": annotations}
}

// Server answers GETs by Objects: a []any is a list, given in pages of one object; an int is a status of failure; paths
// that are missing are not found, and those with a name that no object can have are bad requests.
type Server struct {
	Objects map[string]any
	// Agents are unix sockets by pod, as namespace/name. What is exec'd in a pod is joined to it.
	Agents map[string]string
	// Ports are addresses by port of a pod, as namespace/name:port, that connections to the port are passed on to.
	Ports map[string]string
}

// Start serves until the test ends, and gives the URL.
func (s *Server) Start(t *testing.T) string {
	t.Helper()
	mux := http.NewServeMux()
	for _, method := range []string{http.MethodGet, http.MethodPost} { // by WebSockets, and what is tried after them
		mux.HandleFunc(method+" /api/v1/namespaces/{namespace}/pods/{pod}/exec", s.exec)
	}
	mux.HandleFunc("POST /api/v1/namespaces/{namespace}/pods/{pod}/portforward", s.forward)
	mux.HandleFunc("GET /api/v1/namespaces/{namespace}/pods/{pod}/portforward", func(w http.ResponseWriter, _ *http.Request) {
		fail(w, http.StatusBadRequest, "BadRequest", "not by WebSockets") // SPDY is tried then
	})
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch v := s.Objects[r.URL.Path].(type) {
		case nil:
			fail(w, http.StatusNotFound, "NotFound", "no "+r.URL.Path)
		case int:
			fail(w, v, "Forbidden", "you may not")
		case []any:
			_ = json.NewEncoder(w).Encode(page(v, r.URL.Query().Get("continue")))
		default:
			_ = json.NewEncoder(w).Encode(v)
		}
	})
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !validNames(r.URL) { // the mux would redirect some
			fail(w, http.StatusBadRequest, "BadRequest", "invalid name in "+r.URL.EscapedPath())
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(h.Close)
	return h.URL
}

// validNames reports whether an API server takes the segments of a path for names.
func validNames(u *url.URL) bool {
	for segment := range strings.SplitSeq(u.EscapedPath(), "/") {
		if name, err := url.PathUnescape(segment); err != nil || len(content.IsPathSegmentName(name)) > 0 {
			return false
		}
	}
	return true
}

func fail(w http.ResponseWriter, code int, reason, message string) {
	w.WriteHeader(code)
	fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":%q,"code":%d,"message":%q}`, reason, code, message)
}

func page(all []any, from string) any {
	i := 0
	_, _ = fmt.Sscan(from, &i) // "" is the first
	meta := Object{}
	if i+1 < len(all) {
		meta["continue"] = fmt.Sprint(i + 1)
	}
	return Object{"metadata": meta, "items": all[min(i, len(all)):min(i+1, len(all))]}
}

// exec is the API server's and the kubelet's part of a command that runs in a pod, and weft relay's.
func (s *Server) exec(w http.ResponseWriter, r *http.Request) {
	socket, ok := s.Agents[r.PathValue("namespace")+"/"+r.PathValue("pod")]
	if command := strings.Join(r.URL.Query()["command"], " "); !ok || command != "weft relay" {
		fail(w, http.StatusBadRequest, "BadRequest", fmt.Sprintf("pod %s cannot run %q", r.PathValue("pod"), command))
		return
	}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{"v5.channel.k8s.io": {Binary: true, Channels: []wsstream.ChannelType{
		wsstream.ReadChannel, wsstream.WriteChannel, wsstream.WriteChannel, wsstream.WriteChannel, wsstream.ReadChannel,
	}}})
	_, channels, err := conn.Open(w, r)
	if err != nil {
		return // the answer has been given
	}
	defer func() { _ = conn.Close() }()
	in, out, stderr, status := channels[0], channels[1], channels[2], channels[3]
	agent, err := net.Dial("unix", socket)
	if err != nil {
		fmt.Fprintf(stderr, "weft: %v", err)
		fmt.Fprint(status, `{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"1"}]}}`)
		return
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(agent, in)
		_ = agent.Close()
	}()
	_, _ = io.Copy(out, agent)
	fmt.Fprint(status, `{"status":"Success"}`)
	_ = conn.Close()
	<-ended
}

// forward is the API server's and the kubelet's part of a port that is forwarded (subprotocol portforward.k8s.io): a connection is
// a stream of data, and one of errors.
func (s *Server) forward(w http.ResponseWriter, r *http.Request) {
	if _, err := httpstream.Handshake(r, w, []string{"portforward.k8s.io"}); err != nil {
		return // the answer has been given
	}
	streams := make(chan httpstream.Stream)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error {
		go func() { streams <- s }()
		return nil
	})
	if conn == nil {
		return
	}
	defer func() { _ = conn.Close() }()
	var all sync.WaitGroup
	defer all.Wait()
	for {
		select {
		case <-conn.CloseChan():
			return
		case stream := <-streams:
			if stream.Headers().Get("streamType") != "data" {
				_ = stream.Close()
				continue
			}
			pod := r.PathValue("namespace") + "/" + r.PathValue("pod") + ":" + stream.Headers().Get("port")
			all.Go(func() { joined(stream, s.Ports[pod]) })
		}
	}
}

// joined passes on a stream to an address, until the address has no more to say.
func joined(stream httpstream.Stream, address string) {
	defer func() { _ = stream.Reset() }()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(conn, stream)
		_ = conn.Close()
	}()
	_, _ = io.Copy(stream, conn)
	_ = stream.Reset()
	<-ended
}
