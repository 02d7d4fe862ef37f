package demo

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/weft-mesh/weft/internal/load"
	"github.com/weft-mesh/weft/internal/testenv"
)

// The demo is what shows the examples at work, so it is their test: every line passes, and nothing is left.
func TestEveryLinePasses(t *testing.T) {
	testenv.Root(t)
	t.Setenv("ENVOY", testenv.Envoy(t))
	bin := testenv.Weft(t)
	var out bytes.Buffer
	err := Run(t.Context(), Options{Out: &out, Binary: bin, Exit: true})
	t.Logf("%s", &out)
	if err != nil {
		t.Fatal(err)
	}
	for part, want := range map[string]int{"1  ": 3, "2  ": 7, "3  ": 2, "4  ": 5, "5  ": 6} {
		_, text, _ := strings.Cut(out.String(), "\n"+part)
		text, _, _ = strings.Cut(text, "\n\n")
		if got := strings.Count(text, "  ✓ "); got != want {
			t.Errorf("part %s has %d lines that pass, want %d", strings.TrimSpace(part), got, want)
		}
	}
	left, _ := filepath.Glob("/run/netns/" + nodeName + "*")
	pins, _ := filepath.Glob("/sys/fs/bpf/" + nodeName)
	hosts, _ := filepath.Glob("/etc/netns/" + nodeName + "*")
	if left = append(append(left, pins...), hosts...); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := os.Stat("/run/" + nodeName); err == nil {
		t.Error("the folder is left behind")
	}
}

func TestNewShare(t *testing.T) {
	edited := time.Unix(1000, 0)
	// One request a millisecond; v2 gets every n-th of those since at.
	series := func(n, at int) (out []load.Result) {
		for i := range 3000 {
			r := load.Result{Start: edited.Add(time.Duration(i) * time.Millisecond), Backend: "v1"}
			if i < at && i%10 == 0 || i >= at && i%n == 0 {
				r.Backend = "v2"
			}
			out = append(out, r)
		}
		return out
	}
	for name, tc := range map[string]struct {
		after  []load.Result
		holds  bool
		within time.Duration
		share  float64
	}{
		"at once":           {series(2, 0), true, 20 * time.Millisecond, 0.5},
		"after 100 ms":      {series(2, 100), true, 120 * time.Millisecond, 0.5},
		"another share":     {series(3, 0), true, 20 * time.Millisecond, 0.334},
		"never":             {series(10, 0), false, 0, 0},
		"too late":          {series(2, 2500), false, 0, 0},
		"too few to tell":   {series(2, 0)[:900], false, 0, 0},
		"nothing to see at": {nil, false, 0, 0},
	} {
		took, share, err := newShare(tc.after, edited)
		if (err == nil) != tc.holds || took > tc.within || share < tc.share-0.01 || share > tc.share+0.01 {
			t.Errorf("%s: %v, %v, %v", name, took, share, err)
		}
	}
}

func TestALineThatFailsCounts(t *testing.T) {
	var out bytes.Buffer
	d := &demo{report: newReport(&out)}
	d.line(true, "fine", "%d", 1)
	if got := d.summary(time.Second); d.failed != 0 || !strings.Contains(got, "All 1 lines pass") {
		t.Error(got)
	}
	d.fail("broken", errors.New("first\nsecond"))
	if got := d.summary(time.Second); d.failed != 1 || got != "1 of 2 lines fail." {
		t.Error(got)
	}
	want := fmt.Sprintf("  ✓ %-44s  1\n  ✗ %-44s  first\n      second\n", "fine", "broken")
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

func TestFiguresForPeople(t *testing.T) {
	for in, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567"} {
		if got := number(in); got != want {
			t.Errorf("%d: %s", in, got)
		}
	}
	for in, want := range map[time.Duration]string{
		1500 * time.Microsecond: "1.5 ms", 42 * time.Millisecond: "42 ms", 2345 * time.Millisecond: "2.3 s",
	} {
		if got := millis(in); got != want {
			t.Errorf("%v: %s", in, got)
		}
	}
}

func TestGatewayCertificate(t *testing.T) {
	text, ca, err := gatewayCertificate("ns", "name", "shop.example")
	if err != nil {
		t.Fatal(err)
	}
	var secret struct {
		Kind, Type string
		Data       map[string]string
	}
	if err := yaml.Unmarshal(text, &secret); err != nil || secret.Kind != "Secret" || secret.Type != "kubernetes.io/tls" {
		t.Fatalf("%v: %+v", err, secret)
	}
	var pems [][]byte
	for _, k := range []string{"tls.crt", "tls.key"} {
		b, err := base64.StdEncoding.DecodeString(secret.Data[k])
		if err != nil {
			t.Fatal(err)
		}
		pems = append(pems, b)
	}
	pair, err := tls.X509KeyPair(pems[0], pems[1])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{DNSName: "shop.example", Roots: roots}); err != nil {
		t.Error(err)
	}
}
