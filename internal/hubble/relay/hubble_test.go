package relay

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	observerpb "github.com/cilium/cilium/api/v1/observer"
	"google.golang.org/protobuf/encoding/protojson"
)

// hubbleCommand builds Hubble's own command, as it is, at the version that test/hubble/go.mod names. $HUBBLE wins.
func hubbleCommand(t *testing.T) string {
	t.Helper()
	if file := os.Getenv("HUBBLE"); file != "" {
		return file
	}
	file, err := filepath.Abs("../../../build/tools/hubble")
	if err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", file, "github.com/cilium/cilium/hubble")
	build.Dir, build.Env = "../../../test/hubble", append(os.Environ(), "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the hubble command: %v: %s", err, out)
	}
	return file
}

// TestHubbleCommand asks by Hubble's own command.
func TestHubbleCommand(t *testing.T) {
	file := hubbleCommand(t)
	c, a, _ := two(t, Times{})
	a.flows.Add(resolved(6, "NXDOMAIN"))
	a.flows.Add(resolved(7, ""))
	command := func(token string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), file, append(args, "--server", "tls://"+c.address, "--tls-ca-cert-files", c.ca,
			"--basic-auth-username", "token", "--basic-auth-password", token, "--config", filepath.Join(t.TempDir(), "none.yaml"))...)
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		return cmd
	}
	run := func(token string, args ...string) (string, string, error) {
		t.Helper()
		cmd := command(token, args...)
		var out, errs strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &errs
		err := cmd.Run()
		return out.String(), errs.String(), err
	}
	for _, tc := range []struct {
		name, token string
		args        string
		want        []string // in the output, a line each, if lines is not set
		lines       int
	}{
		{"status", "admin", "status", []string{"Healthcheck (via ", "Ok", "Current/Max Flows: 7/2,000", "Connected Nodes: 2/2"}, 0},
		{"nodes", "shop", "list nodes -o wide", []string{"a ", "b ", "Connected", "Enabled", "v1.2.3"}, 0},
		{"namespaces", "shop", "list namespaces", []string{"shop"}, 0},
		{"compact", "admin", "observe --last 10", []string{
			"shop/app-1:40000 (ID:1463548028) -> store/web-1:8080 (ID:466924736) http-response FORWARDED (HTTP 404 12ms (GET http://web/2), from spiffe://t/ns/shop/sa/app, to spiffe://t/ns/store/sa/web)",
		}, 0},
		{"drop", "admin", "observe --last 10 --verdict DROPPED", []string{"Policy denied DROPPED (TCP, no policy allows it, policies store/vault, from spiffe://t/ns/shop/sa/app, to spiffe://t/ns/store/sa/web)"}, 1},
		{"namespace", "admin", "observe --last 10 --namespace bank", []string{"bank/vault-1:8080"}, 1},
		{"pod", "admin", "observe --last 10 --to-pod store/web", []string{"store/web-1"}, 4},
		{"not this pod", "admin", "observe --last 10 --not --to-pod store/web", []string{"bank/vault-1"}, 3},
		{"pod, either end", "admin", "observe --last 10 --pod bank/vault", []string{"bank/vault-1"}, 1},
		{"label, either end", "admin", "observe --last 10 --label app=web", []string{"store/web-1"}, 4},
		{"address, either end", "admin", "observe --last 10 --ip 10.0.3.1", []string{"dns-1:53"}, 2},
		{"port, either end", "admin", "observe --last 10 --port 53", []string{"dns-1:53"}, 2},
		{"service, either end", "admin", "observe --last 10 --service kube-system/dns", []string{"dns-1:53"}, 2},
		{"identity", "admin", "observe --last 10 --from-identity 1463548028 --to-identity 466924736", []string{"web/1"}, 4},
		{"encrypted", "admin", "observe --last 10 --encrypted", []string{"web/1"}, 4},
		{"label", "admin", "observe --last 10 --from-label app=app", []string{"store/web-1"}, 6},
		{"ip", "admin", "observe --last 10 --to-ip 10.0.2.0/24 --node-name b", []string{"store/web-1", "bank/vault-1"}, 2},
		{"port and protocol", "admin", "observe --last 10 --to-port 8080 --protocol http", []string{"http-response"}, 4},
		{"status of answers", "admin", "observe --last 10 --http-status 5+", []string{"HTTP 503"}, 1},
		{"method and path", "admin", "observe --last 10 --http-method GET --http-path ^/[12]$", []string{"web/1", "web/2"}, 2},
		{"workload", "admin", "observe --last 10 --from-workload Deployment/app", []string{"store/web-1"}, 6},
		{"DNS", "admin", "observe --last 10 --protocol dns", []string{
			"shop/app-1:40000 (unknown) -> kube-system/dns-1:53 (unknown) dns-response FORWARDED (DNS Answer NXDOMAIN 0 answers in 2ms (Query web.store.svc. AAAA))",
			"dns-request ERROR (DNS Query web.store.svc. AAAA, no answer within 5s)",
		}, 2},
		{"UDP", "admin", "observe --last 10 --protocol udp --verdict FORWARDED", []string{"dns-response"}, 1},
		{"type", "admin", "observe --last 10 --type l7", []string{"http-response"}, 6},
		{"direction", "admin", "observe --last 10 --traffic-direction ingress", []string{"DROPPED"}, 1},
		{"service", "admin", "observe --last 10 --to-service bank/vault", []string{"bank/vault-1"}, 1},
		{"first", "admin", "observe --first 1", []string{"web/1", "web/2"}, 2},
		{"since", "admin", "observe --since 1h", []string{"web/1", "web/4"}, 7},
		{"until", "admin", "observe --since 1h --until " + begin.Add(2*time.Second).Format(time.RFC3339), []string{"web/1", "web/2"}, 2},
		{"all", "admin", "observe --all", []string{"web/1", "web/4"}, 7},
		{"whose namespace may be seen", "shop", "observe --last 10", []string{"store/web-1"}, 6},
	} {
		out, errs, err := run(tc.token, strings.Fields(tc.args)...)
		if err != nil {
			t.Errorf("%s: %v: %s", tc.name, err, errs)
			continue
		}
		t.Logf("hubble %s\n%s%s", tc.args, out, errs)
		text := strings.Join(strings.Fields(out), " ") // the command's columns are wider for some kinds
		for _, w := range tc.want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: no %q in %s", tc.name, w, out)
			}
		}
		var flows []string
		for _, line := range strings.Split(out, "\n") {
			if strings.Contains(line, "->") {
				flows = append(flows, line)
			}
		}
		if tc.lines > 0 && len(flows) != tc.lines {
			t.Errorf("%s: %d flows, want %d: %s", tc.name, len(flows), tc.lines, out)
		}
	}
	for _, tc := range []struct{ token, args, want string }{
		{"x", "observe", "Unauthenticated"},
		{"nobody", "observe", "PermissionDenied"},
		{"admin", "observe --from-fqdn a", "source_fqdn: flows of Weft cannot be filtered by it"},
		{"admin", "observe --http-path (", "http_path: "},
		{"admin", "observe --tcp-flags SYN", "tcp_flags: "},
	} {
		if out, errs, err := run(tc.token, strings.Fields(tc.args)...); err == nil || !strings.Contains(errs, tc.want) {
			t.Errorf("%s: %v: no %q in %s%s", tc.args, err, tc.want, out, errs)
		}
	}
	out, errs, err := run("admin", strings.Fields("observe --last 10 -o jsonpb --http-status 404")...)
	var m observerpb.GetFlowsResponse
	first, _, _ := strings.Cut(out, "\n")
	if err != nil || protojson.Unmarshal([]byte(first), &m) != nil || m.GetFlow().GetL7().GetHttp().GetCode() != 404 {
		t.Errorf("JSON: %v: %s%s", err, out, errs)
	}
	t.Run("follow", func(t *testing.T) {
		next := lines(t, command("admin", "observe", "--follow", "--http-path", "^/follow"))
		stop := make(chan struct{})
		defer close(stop)
		go func() { // it begins to follow at a time of its own
			for second := 10; ; second++ {
				f := flow(second, "store/web-1", 200)
				f.HTTP.Path = "/follow"
				a.flows.Add(f)
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
				}
			}
		}()
		for range 3 {
			if line := next(); !strings.Contains(line, "http-response FORWARDED (HTTP 200 12ms (GET http://web/follow)") {
				t.Errorf("%q", line)
			}
		}
	})
	t.Run("peers", func(t *testing.T) {
		next := lines(t, command("admin", "watch", "peers"))
		for _, node := range []string{"a", "b"} {
			if line := next(); !strings.Contains(line, "PEER_ADDED") || !strings.Contains(line, node) {
				t.Errorf("%q, want node %s", line, node)
			}
		}
	})
}

// lines starts a command that goes on, and returns what waits for its next line. The command is ended with the test.
func lines(t *testing.T, cmd *exec.Cmd) (next func() string) {
	t.Helper()
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	in := bufio.NewScanner(out)
	return func() string {
		t.Helper()
		if !in.Scan() {
			_ = cmd.Wait()
			t.Fatalf("it ended: %v: %s", in.Err(), &errs)
		}
		return in.Text()
	}
}
