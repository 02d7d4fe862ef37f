package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"go.uber.org/goleak"
)

// asPlugin in the environment makes the test's binary the plugin, which lives in a process of its own.
const asPlugin = "WEFT_TEST_PLUGIN"

func TestMain(m *testing.M) {
	if os.Getenv(asPlugin) != "" {
		os.Exit(Plugin("test"))
	}
	goleak.VerifyTestMain(m)
}

// fakeNode notes what it is asked, and answers with err.
type fakeNode struct {
	mu    sync.Mutex
	calls []string
	last  *Request
	keep  *Keep
	err   error
}

func (n *fakeNode) note(what string, r *Request) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls, n.last = append(n.calls, what), r
	return n.err
}

func (n *fakeNode) Add(_ context.Context, r *Request) error    { return n.note("ADD", r) }
func (n *fakeNode) Delete(_ context.Context, r *Request) error { return n.note("DEL", r) }
func (n *fakeNode) Check(_ context.Context, r *Request) error  { return n.note("CHECK", r) }
func (n *fakeNode) Collect(_ context.Context, k *Keep) error {
	n.keep = k
	return n.note("GC", nil)
}

// sandbox is a folder with an agent's socket and file.
type sandbox struct {
	dir  string
	node *fakeNode
}

func newSandbox(t *testing.T) *sandbox { return &sandbox{dir: t.TempDir(), node: &fakeNode{}} }

func (s *sandbox) socket() string { return filepath.Join(s.dir, "cni.sock") }
func (s *sandbox) modes() string  { return filepath.Join(s.dir, "namespaces.json") }
func (s *sandbox) log() string    { return filepath.Join(s.dir, "cni.log") }

func (s *sandbox) serve(t *testing.T) {
	t.Helper()
	l, err := net.Listen("unix", s.socket())
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: Handler(s.node)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
}

const prevResult = `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/run/netns/x"}],
	"ips":[{"address":"10.1.2.3/24","gateway":"10.1.2.1","interface":0},{"address":"fd00::3/64","interface":0}],
	"routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["10.96.0.10"]}}`

// run starts the plugin for pod shop/web. conf is added to the network configuration.
func (s *sandbox) run(t *testing.T, command, args, conf string) (string, *types.Error) {
	t.Helper()
	fields := map[string]json.RawMessage{}
	base, _ := json.Marshal(map[string]any{
		"cniVersion": "1.1.0", "name": "net", "type": Type, "socket": s.socket(), "modes": s.modes(), "logFile": s.log(),
	})
	for _, text := range []string{string(base), conf} {
		if err := json.Unmarshal([]byte(text), &fields); err != nil {
			t.Fatal(err)
		}
	}
	in, _ := json.Marshal(fields)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asPlugin+"=1", "CNI_COMMAND="+command, "CNI_CONTAINERID=abc", "CNI_NETNS=/run/netns/x",
		"CNI_IFNAME=eth0", "CNI_PATH=/opt/cni/bin", "CNI_NETNS_OVERRIDE=1", "CNI_ARGS="+args)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		var e types.Error
		if json.Unmarshal(out, &e) != nil || e.Msg == "" {
			t.Fatalf("plugin failed without an error of the CNI: %s %s", out, exit.Stderr)
		}
		return "", &e
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(out), nil
}

const podArguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u-1"

func TestAddAsksTheAgentAndPassesTheResult(t *testing.T) {
	s := newSandbox(t)
	s.serve(t)
	out, e := s.run(t, "ADD", podArguments, `{"prevResult":`+prevResult+`}`)
	if e != nil {
		t.Fatal(e)
	}
	want := &Request{
		Namespace: "shop", Name: "web", UID: "u-1", ContainerID: "abc", NetNS: "/run/netns/x",
		Addresses: []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("fd00::3")},
	}
	if got, _ := json.Marshal(s.node.last); string(got) != string(must(json.Marshal(want))) {
		t.Errorf("agent was asked %s", got)
	}
	if !equalResults(t, out, prevResult) {
		t.Errorf("result is not the one of the plugin before: %s", out)
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func equalResults(t *testing.T, a, b string) bool {
	t.Helper()
	var texts []string
	for _, s := range []string{a, b} {
		r, err := current.NewResult([]byte(s))
		if err != nil {
			t.Fatalf("%v: %s", err, s)
		}
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	return texts[0] == texts[1]
}

func TestAddIsRefused(t *testing.T) {
	for _, test := range []struct {
		name, args, conf string
		err              error
		code             uint
		contains         string
	}{
		{"the agent's error", podArguments, `{"prevResult":` + prevResult + `}`, types.NewError(types.ErrTryAgainLater, "pod lacks x", "see y"), types.ErrTryAgainLater, "pod lacks x; see y"},
		{"another error of the agent", podArguments, `{"prevResult":` + prevResult + `}`, errors.New("oh"), types.ErrInternal, "oh"},
		{"no plugin before", podArguments, `{}`, nil, types.ErrInvalidNetworkConfig, "chained"},
		{"no UID", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web", `{"prevResult":` + prevResult + `}`, nil, types.ErrInvalidEnvironmentVariables, "UID"},
		{"arguments that are none", "x", `{"prevResult":` + prevResult + `}`, nil, types.ErrInvalidEnvironmentVariables, "CNI_ARGS"},
		{"a result that is none", podArguments, `{"prevResult":{"cniVersion":"1.1.0","ips":7}}`, nil, types.ErrDecodingFailure, "result"},
		{"no socket", podArguments, `{"socket":"","prevResult":` + prevResult + `}`, nil, types.ErrInvalidNetworkConfig, "socket"},
		{"a name that is a path", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=../web;K8S_POD_UID=u", `{"prevResult":` + prevResult + `}`, nil, types.ErrDecodingFailure, "name"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSandbox(t)
			s.node.err = test.err
			s.serve(t)
			_, e := s.run(t, "ADD", test.args, test.conf)
			if e == nil || e.Code != test.code || !strings.Contains(e.Error(), test.contains) {
				t.Errorf("error %v, want code %d with %q", e, test.code, test.contains)
			}
		})
	}
}

func TestSandboxOfNoPodPasses(t *testing.T) {
	s := newSandbox(t)
	out, e := s.run(t, "ADD", "", `{"prevResult":`+prevResult+`}`)
	if e != nil || !equalResults(t, out, prevResult) {
		t.Errorf("%v %s", e, out)
	}
}

func TestOldVersionsOfTheResult(t *testing.T) {
	s := newSandbox(t)
	s.serve(t)
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0"} {
		prev := `{"cniVersion":"` + version + `","interfaces":[{"name":"eth0"}],"ips":[{"version":"4","address":"10.1.2.3/24","interface":0}],"dns":{}}`
		out, e := s.run(t, "ADD", podArguments, `{"cniVersion":"`+version+`","prevResult":`+prev+`}`)
		if e != nil || !strings.Contains(out, `"cniVersion": "`+version+`"`) || !strings.Contains(out, "10.1.2.3/24") {
			t.Errorf("%s: %v %s", version, e, out)
		}
		if len(s.node.last.Addresses) != 1 {
			t.Errorf("%s: addresses %v", version, s.node.last.Addresses)
		}
	}
}

func TestWithoutAgent(t *testing.T) {
	modes := Modes{"shop": {}, "bank": {Label: true}, "mixed": {Pod: true}}
	for _, test := range []struct {
		name, namespace string
		modes           Modes
		text            string // of the file, if not modes
		refused         string // "" if the pod proceeds
	}{
		{"known namespace", "shop", modes, "", ""},
		{"strict namespace", "bank", modes, "", "namespace bank has pods of mTLS mode strict"},
		{"namespace with a strict pod", "mixed", modes, "", "namespace mixed has pods of mTLS mode strict"},
		{"unknown namespace", "new", modes, "", "namespace new is not known"},
		{"no file", "shop", nil, "", "namespace shop"},
		{"broken file", "shop", nil, `{"shop":`, "namespace shop"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newSandbox(t)
			if test.modes != nil {
				if err := WriteModes(s.modes(), test.modes); err != nil {
					t.Fatal(err)
				}
			} else if test.text != "" {
				if err := os.WriteFile(s.modes(), []byte(test.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			args := strings.Replace(podArguments, "shop", test.namespace, 1)
			out, e := s.run(t, "ADD", args, `{"prevResult":`+prevResult+`}`)
			if test.refused == "" {
				if e != nil || !equalResults(t, out, prevResult) {
					t.Errorf("does not proceed: %v %s", e, out)
				}
				log, _ := os.ReadFile(s.log())
				if !strings.Contains(string(log), test.namespace+"/web") {
					t.Errorf("log does not name the pod: %s", log)
				}
				return
			}
			if e == nil || e.Code != types.ErrTryAgainLater || !strings.Contains(e.Msg, test.refused) || !strings.Contains(e.Details, "weft-agent") {
				t.Errorf("error %v, want %q", e, test.refused)
			}
		})
	}
}

func TestOtherCommands(t *testing.T) {
	for _, test := range []struct {
		command, conf string
		err           error
		asked, fails  bool
	}{
		{"DEL", `{}`, nil, true, false},
		{"DEL", `{"prevResult":` + prevResult + `}`, errors.New("oh"), true, false},
		{"DEL", `{"socket":""}`, nil, false, false},
		{"CHECK", `{"prevResult":` + prevResult + `}`, nil, true, false},
		{"CHECK", `{"prevResult":` + prevResult + `}`, errors.New("oh"), true, true},
		{"GC", `{"cni.dev/valid-attachments":[{"containerID":"a","ifname":"eth0"},{"containerID":"b","ifname":"eth0"}]}`, nil, true, false},
		{"GC", `{}`, errors.New("oh"), true, false},
		{"STATUS", `{}`, nil, false, false},
		{"STATUS", `{"modes":""}`, nil, false, true},
	} {
		for _, down := range []bool{false, true} {
			s := newSandbox(t)
			s.node.err = test.err
			if !down {
				s.serve(t)
			}
			_, e := s.run(t, test.command, podArguments, test.conf)
			if fails := test.fails && !(down && test.asked); fails != (e != nil) {
				t.Errorf("%s %s, agent down %v: error %v", test.command, test.conf, down, e)
			}
			if want := test.asked && !down; want != slices.Contains(s.node.calls, test.command) {
				t.Errorf("%s %s, agent down %v: agent was asked %v", test.command, test.conf, down, s.node.calls)
			}
			if test.command == "GC" && test.err == nil && !down && !slices.Equal(s.node.keep.ContainerIDs, []string{"a", "b"}) {
				t.Errorf("GC keeps %v", s.node.keep)
			}
		}
	}
}
