package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/observe"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) {
	os.Setenv("KUBECONFIG", "/nowhere") // no test asks the cluster of who runs it
	// It ends with its next tick after the connection, which is seconds.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("k8s.io/client-go/tools/remotecommand.(*heartbeat).start"))
}

func run(t *testing.T, args ...string) (out string, err error) {
	t.Helper()
	var buf bytes.Buffer
	root := newRoot(Options{Version: "v1.2.3", Envoy: "1.40.0"}, func() time.Time { return fixedNow })
	root.SetOut(&buf)
	root.SetErr(&buf)
	root.SetArgs(args)
	err = root.ExecuteContext(t.Context())
	return buf.String(), err
}

func TestGolden(t *testing.T) {
	healthy, sick := serve(t, healthyNode()), serve(t, sickNode())
	for _, c := range []struct {
		name string
		run  string
		args string
		err  error
	}{
		{"status", healthy, "status", nil},
		{"status-sick", sick, "status", ErrUnhealthy},
		{"status-sick-json", sick, "status -o json", ErrUnhealthy},
		{"services", healthy, "config services", nil},
		{"services-wide", healthy, "config services -o wide", nil},
		{"services-yaml", healthy, "config services -n shop -o yaml", nil},
		{"routes", healthy, "config routes", nil},
		{"routes-wide", healthy, "config routes -o wide", nil},
		{"routes-json", healthy, "config routes -o json", nil},
		{"endpoints", healthy, "config endpoints", nil},
		{"endpoints-wide", healthy, "config endpoints -A -o wide", nil},
		{"identities", healthy, "config identities -o wide", nil},
		{"certificates", healthy, "config certificates -o wide", nil},
		{"certificates-name", healthy, "config certificates -n edge tls -o json", nil},
		{"policies", healthy, "config policies -o wide", nil},
		{"gateways", healthy, "config gateways -o wide", nil},
		{"conditions", healthy, "config status", nil},
		{"conditions-namespace", healthy, "config status -n edge", nil},
		{"nothing", healthy, "config services -n nowhere", nil},
		{"observe", healthy, "observe", nil},
		{"observe-filter", healthy, "observe --to shop/web --verdict refused -o json", nil},
		{"observe-wide", healthy, "observe -o wide --date", nil},
		{"observe-terms", healthy, "observe --layer l7,L4 --to !plain/ --status !5xx", nil},
		{"observe-requests", healthy, "observe --method get --status 2xx --path /a*", nil},
		{"observe-labels", healthy, "observe -l app=web --label !tier=back --verdict refused -o wide", nil},
		{"observe-times", healthy, "observe --since 2030-05-01T12:00:02Z --until 2030-05-01T12:00:05Z", nil},
		{"explain", healthy, "explain --from shop/app-1 --to pod/shop/web-1:8080 --path /public", nil},
		{"explain-assumed", healthy, "explain --from shop/app-1 --to shop/web", ErrUnhealthy},
		{"explain-policy", healthy, "explain --from shop/app-1 --to pod/shop/web-1:9090 --path /private", ErrUnhealthy},
		{"explain-refused", healthy, "explain --from shop/app-1 --to shop/web:80 --path /b --host a.example --header x-user=bob", ErrUnhealthy},
		{"explain-redirect", healthy, "explain --from shop/app-1 --to service/shop/web:80 --path /old", nil},
		{"explain-gateway", healthy, "explain --from shop/app-1 --to gateway/edge/public:443", ErrUnhealthy},
		{"explain-pod", healthy, "explain --from plain/old-1 --to pod/shop/web-1:8080 -o json", ErrUnhealthy},
		{"describe-pod", healthy, "describe pod shop/web-1", nil},
		{"describe-pod-elsewhere", healthy, "describe po app-1 -n shop", nil},
		{"describe-service", healthy, "describe svc shop/web", nil},
		{"describe-route", healthy, "describe route shop/canary", nil},
		{"describe-gateway", healthy, "describe gateway edge/public", nil},
		{"describe-gateway-yaml", healthy, "describe gateways edge/public -o yaml", nil},
		{"describe-sick-pod", sick, "describe pod shop/web-1", nil},
		{"describe-sick-service", sick, "describe service shop/web", nil},
		{"describe-sick-route", sick, "describe httproute shop/canary", nil},
		{"describe-sick-gateway", sick, "describe gateway edge/new", nil},
		{"envoy-listeners", healthy, "proxy-config listeners -o wide", nil},
		{"envoy-clusters", healthy, "proxy-config clusters", nil},
		{"envoy-routes", healthy, "pc routes service/", nil},
		{"envoy-routes-yaml", healthy, "pc route hbone -o yaml", nil},
		{"envoy-endpoints", healthy, "proxy-config endpoints service/", nil},
		{"envoy-secrets", healthy, "proxy-config secrets -o wide", nil},
		{"envoy-nothing", healthy, "proxy-config clusters nowhere", nil},
		{"envoy-log-level", healthy, "proxy-config log-level http=debug", nil},
		{"analyze", healthy, "analyze -f testdata/manifests/faulty.yaml", ErrUnhealthy},
		{"analyze-warning", healthy, "analyze -f testdata/manifests/hidden.yaml", nil},
		{"analyze-nothing", healthy, "analyze -f ../../examples/canary -o json", nil},
		{"analyze-strict", healthy, "analyze -f testdata/manifests/hidden.yaml --strict -o json", ErrUnhealthy},
		{"translate", healthy, "translate -f testdata/manifests/hidden.yaml", nil},
		{"translate-streams", healthy, "translate -f testdata/manifests/streams.yaml", nil},
		{"translate-model", healthy, "translate -f testdata/manifests/hidden.yaml -o model", nil},
		{"translate-kernel", healthy, "translate -f testdata/manifests/hidden.yaml -o kernel", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, err := run(t, append(strings.Fields(c.args), "--run", c.run)...)
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if strings.Contains(out, "SECRET") || strings.Contains(out, "PRIVATE KEY") {
				t.Error("a private key was printed")
			}
			if strings.ContainsRune(out, 0x1b) {
				t.Error("foreign text reached the terminal's controls")
			}
			golden(t, filepath.Join("testdata", c.name+".txt"), "$ weft "+c.args+"\n"+out)
		})
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update writes it)\n%s", path, diff)
	}
}

// TestHabits tries what users of kubectl type.
func TestHabits(t *testing.T) {
	node := serve(t, healthyNode())
	list := func(args ...string) string {
		out, err := run(t, append(args, "--run", node)...)
		if err != nil {
			t.Errorf("%q: %v", args, err)
		}
		return out
	}
	for alias, name := range map[string]string{
		"service": "services", "svc": "services", "route": "routes", "endpoint": "endpoints", "ep": "endpoints",
		"identity": "identities", "certificate": "certificates", "cert": "certificates", "policy": "policies",
		"gateway": "gateways", "gtw": "gateways",
	} {
		if got, want := list("config", alias), list("config", name); got != want {
			t.Errorf("config %s prints %q, want what %s prints, %q", alias, got, name, want)
		}
	}
	if got, err := run(t, "--version"); err != nil || !strings.HasPrefix(got, "weft ") {
		t.Errorf("--version prints %q, %v", got, err)
	}
	// A flag of the cluster may come before the name of what is listed.
	if _, err := run(t, "config", "--kubeconfig", "/no/such/file", "routes"); err == nil || !strings.Contains(err.Error(), "/no/such/file") {
		t.Errorf("config --kubeconfig FILE routes: error %v, want one about the file", err)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	healthy := serve(t, healthyNode())
	stale := t.TempDir()
	if err := os.WriteFile(filepath.Join(stale, api.SocketName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"no agent, no cluster", []string{"status", "--run", t.TempDir()}, "name it with --kubeconfig"},
		{"no agent", []string{"status", "--run", t.TempDir()}, "start its agent"},
		{"socket of an agent that died", []string{"status", "--run", stale}, "start its agent"},
		{"format", []string{"config", "services", "-o", "xml", "--run", healthy}, "there are table, wide, json, yaml"},
		{"verdict", []string{"observe", "--verdict", "lost", "--run", healthy}, "--verdict: \"lost\" is neither forwarded"},
		{"since", []string{"observe", "--since", "yesterday", "--run", healthy}, "neither a duration"},
		{"until", []string{"observe", "--since", "5m", "--until", "10m", "--run", healthy}, "before --since"},
		{"until and follow", []string{"observe", "-f", "--until", "5m", "--run", healthy}, "give one of them"},
		{"peer", []string{"observe", "--from", "a/b/c", "--run", healthy}, "NAMESPACE/NAME"},
		{"empty peer", []string{"observe", "--from", "!", "--run", healthy}, "--from: a value is empty"},
		{"method", []string{"explain", "--from", "shop/app-1", "--to", "shop/web", "--method", "G T", "--run", healthy}, `--method "G T" is no method`},
		{"header", []string{"explain", "--from", "shop/app-1", "--to", "shop/web", "--header", "a b=c", "--run", healthy}, "NAME=VALUE"},
		{"header of two lines", []string{"explain", "--from", "shop/app-1", "--to", "shop/web", "--header", "a=b\r\nc: d", "--run", healthy}, "NAME=VALUE"},
		{"path", []string{"explain", "--from", "shop/app-1", "--to", "shop/web", "--path", "/a b", "--run", healthy}, "space or a control character"},
		{"nothing of the name", []string{"describe", "gateway", "shop/none", "--run", healthy}, "Gateway shop/none is not known"},
		{"namespaces", []string{"config", "routes", "-n", "a", "-A", "--run", healthy}, "exclude each other"},
		{"command", []string{"statsu"}, "unknown command"},
		{"misspelt subcommand", []string{"config", "servces"}, "did you mean services?"},
		{"unknown subcommand", []string{"connectivity", "prove"}, "there are test"},
		{"argument", []string{"observe", "shop/web"}, `"shop/web" is not expected: weft observe takes flags alone; weft observe --help lists them`},
		{"flag", []string{"config", "services", "--nmespace", "shop"}, "unknown flag: --nmespace; weft config services --help lists the flags"},
		{"negative first", []string{"top", "--first", "-1", "--run", healthy}, "--first -1 must not be negative"},
		{"negative measure", []string{"edges", "--for", "-1s", "--run", healthy}, "--for -1s must not be negative"},
		{"negative last", []string{"observe", "--last", "-1", "--run", healthy}, "--last -1 must not be negative"},
		{"nothing to describe", []string{"describe"}, "weft describe KIND NAMESPACE/NAME"},
		{"no name to describe", []string{"describe", "pod"}, "weft describe KIND NAMESPACE/NAME"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := run(t, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not hold %q", err, c.want)
			}
		})
	}
}

// TestCompletion: shells complete kinds and the values of flags, also after a comma.
func TestCompletion(t *testing.T) {
	for typed, want := range map[string]string{
		"describe ":                  "pod\nservice\ngateway\nroute\n:4\n",
		"describe pod ":              ":4\n",
		"observe --verdict ":         "forwarded\nrefused\nfailed\n:4\n",
		"observe --verdict refused,": "refused,forwarded\nrefused,refused\nrefused,failed\n:4\n",
		"observe --protocol D":       "TCP\nUDP\nHTTP\nDNS\n:4\n",
		"top --by ":                  "requests\nerrors\np99\nconnections\nbytes\nrefused\n:4\n",
		"translate -f x -o ":         "routes\nmodel\nenvoy\nkernel\n:4\n",
	} {
		out, err := run(t, append([]string{"__complete"}, strings.Split(typed, " ")...)...)
		if out, _, _ = strings.Cut(out, "Completion ended"); err != nil || out != want {
			t.Errorf("%q: %q, %v", typed, out, err)
		}
	}
}

func TestVersion(t *testing.T) {
	out, err := run(t, "version")
	if err != nil || !strings.Contains(out, "weft v1.2.3 (go1.") || !strings.Contains(out, "made for Envoy 1.40.0") {
		t.Errorf("%q, %v", out, err)
	}
	if v := Version(""); v == "" {
		t.Error("no version without a linked one")
	}
}

func TestExitStatus(t *testing.T) {
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		ctx    context.Context
		err    error
		status int
		text   string
	}{
		{t.Context(), nil, 0, ""},
		{t.Context(), ErrUnhealthy, 1, ""},
		{t.Context(), errors.New("no such thing"), 1, "weft: no such thing\n"},
		{stopped, fmt.Errorf("ask: %w", context.Canceled), 130, ""},
		{stopped, errors.New("a fault meanwhile"), 1, "weft: a fault meanwhile\n"},
		{t.Context(), context.Canceled, 1, "weft: context canceled\n"}, // of something else
	} {
		var out strings.Builder
		if got := exitStatus(c.ctx, c.err, &out); got != c.status || out.String() != c.text {
			t.Errorf("%v: exit status %d, %q", c.err, got, &out)
		}
	}
}

func TestAsRoot(t *testing.T) {
	denied := fmt.Errorf("open the CA: %w", fs.ErrPermission)
	if got := asRoot(denied, 1000); !strings.Contains(got, "root") {
		t.Errorf("denied to a user: %q", got)
	}
	if got := asRoot(denied, 0) + asRoot(fs.ErrNotExist, 1000); got != "" {
		t.Errorf("denied to root, and another error: %q", got)
	}
}

// TestFollow sees a flow that comes after the command began, and hears of those that were lost.
func TestFollow(t *testing.T) {
	n := healthyNode()
	dir := serve(t, n)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	root := newRoot(Options{}, time.Now)
	out := newLineWriter()
	root.SetOut(out)
	root.SetArgs([]string{"observe", "-f", "--last", "1", "--to", "shop/web", "--run", dir})
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(ctx) }()
	if l := <-out.lines; !strings.Contains(l, "refused") {
		t.Errorf("the last flow before: %q", l)
	}
	n.flows.AddLost(4)
	if l := <-out.lines; !strings.Contains(l, "4 flows were lost") {
		t.Errorf("lost: %q", l)
	}
	n.flows.Add(observe.Flow{Destination: observe.Peer{Service: "plain/db"}, Verdict: observe.Failed})
	n.flows.Add(observe.Flow{Destination: observe.Peer{Service: "shop/web"}, Verdict: observe.Failed, Reason: "nobody listens"})
	if l := <-out.lines; !strings.Contains(l, "nobody listens") {
		t.Errorf("what came: %q", l)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ended by Ctrl-C: %v", err)
	}
}

// lineWriter hands on each write, which is a line.
type lineWriter struct{ lines chan string }

func newLineWriter() *lineWriter { return &lineWriter{lines: make(chan string, 100)} }

func (l *lineWriter) Write(p []byte) (int, error) {
	l.lines <- string(p)
	return len(p), nil
}
