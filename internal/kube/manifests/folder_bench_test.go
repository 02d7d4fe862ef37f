package manifests

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/state"
)

const routeText = `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: route-%d
  namespace: shop
spec:
  parentRefs:
    - {group: "", kind: Service, name: web-%d, port: 80}
  rules:
    - matches:
        - path: {type: PathPrefix, value: /api}
          headers:
            - {name: x-user, value: alice}
      timeouts: {request: 10s, backendRequest: 5s}
      backendRefs:
        - {name: web-v1, port: 80, weight: %d}
        - {name: web-v2, port: 80, weight: 10}
`

// BenchmarkLoadTenThousand reads a folder of 10,000 files for the first time.
func BenchmarkLoadTenThousand(b *testing.B) {
	dir := b.TempDir()
	for i := range 10_000 {
		write(b, filepath.Join(dir, fmt.Sprintf("r%05d.yaml", i)), fmt.Sprintf(routeText, i, i, 90))
	}
	for b.Loop() {
		f, _ := newTestFolder(dir)
		if err := f.Load(); err != nil || f.objs.Count(f.objs.DB.Snapshot()) != 10_000 {
			b.Fatal(err, f.objs.Count(f.objs.DB.Snapshot()))
		}
	}
}

// BenchmarkOneFileOfTenThousand changes one document of a file with 10,000.
func BenchmarkOneFileOfTenThousand(b *testing.B) {
	dir := b.TempDir()
	docs := make([]string, 10_000)
	for i := range docs {
		docs[i] = fmt.Sprintf(routeText, i, i, 90)
	}
	file := filepath.Join(dir, "all.yaml")
	write(b, file, strings.Join(docs, "---\n"))
	f, _ := newTestFolder(dir)
	if err := f.Load(); err != nil {
		b.Fatal(err)
	}
	n := 0
	for b.Loop() {
		n++
		docs[5000] = fmt.Sprintf(routeText, 5000, 5000, n)
		b.StopTimer()
		write(b, file, strings.Join(docs, "---\n"))
		b.StartTimer()
		f.take(f.readAll([]string{"all.yaml"}))
	}
}

// BenchmarkOneOfTenThousand changes one file of a folder of 10,000 and waits for the object in its table: the whole
// way, with the kernel's events.
func BenchmarkOneOfTenThousand(b *testing.B) {
	dir := b.TempDir()
	for i := range 10_000 {
		write(b, filepath.Join(dir, fmt.Sprintf("r%05d.yaml", i)), fmt.Sprintf(routeText, i, i, 90))
	}
	objs := kube.NewObjects(state.NewDB())
	f := NewFolder(dir, objs, FolderOptions{Log: slog.New(slog.DiscardHandler)})
	if err := f.Load(); err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = f.Run(ctx) }()
	defer func() { cancel(); <-done }()
	feed := objs.DB.Feed()
	defer feed.Close()
	// The first change tells that the folder is watched.
	n := 0
	change := func() {
		n++
		write(b, filepath.Join(dir, "r05000.yaml"), fmt.Sprintf(routeText, 5000, 5000, n))
		<-feed.Ready()
		feed.Take()
	}
	change()
	for b.Loop() {
		change()
	}
}

func BenchmarkParseRoute(b *testing.B) {
	d := newDecoder(kube.NewObjects(state.NewDB()))
	text := fmt.Appendf(nil, routeText, 1, 1, 90)
	for b.Loop() {
		if docs := d.chunk(splitYAML(text)[0]); docs[0].obj == nil {
			b.Fatal(docs[0].faults)
		}
	}
}

func write(tb testing.TB, path, text string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		tb.Fatal(err)
	}
}
