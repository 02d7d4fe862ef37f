package testenv

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Collector starts an OpenTelemetry collector, a program, that takes a signal (logs, traces) by gRPC and sends it on by HTTP to a
// URL. tls is what its receiver has under "tls" (configtls.ServerConfig, in YAML), "" for gRPC in the clear. It returns the address
// at which the collector will listen.
func Collector(t testing.TB, program, signal, to, tls string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	l.Close()
	if tls != "" {
		tls = ", tls: " + tls
	}
	file := filepath.Join(t.TempDir(), "collector.yaml")
	config := fmt.Sprintf(`receivers: {otlp: {protocols: {grpc: {endpoint: %q%s}}}}
exporters: {otlphttp: {endpoint: %q, compression: none}}
service:
  telemetry: {metrics: {level: none}}
  pipelines: {%s: {receivers: [otlp], exporters: [otlphttp]}}
`, at, tls, to, signal)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--config=file:"+file)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the collector: %s", &said)
		}
	})
	return at
}
