//go:build cluster

package e2e

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/weft-mesh/weft/test/cluster"
)

// parts are the mesh's own workloads.
var parts = []string{"daemonset/weft-agent", "daemonset/weft-proxy", "deployment/weft-controller"}

// TestRestarted restarts each part of the mesh under load, as kubectl rollout restart does.
func TestRestarted(t *testing.T) {
	all := background(t)
	for _, part := range parts {
		t.Run(part[strings.Index(part, "-")+1:], func(t *testing.T) {
			f := begin(t, all...)
			began := time.Now()
			kubectl(t, "-n", system, "rollout", "restart", part)
			rolledOut(t, system, part)
			measured(t, "rollout", time.Since(began))
			keepFlowing(5 * time.Second)
			f.end()
		})
	}
}

// TestUpgraded gives all parts another image at once under load, as helm upgrade does, and then the one before, as helm
// rollback does.
func TestUpgraded(t *testing.T) {
	all := background(t)
	old := map[string]string{}
	for _, part := range parts {
		image := kubectl(t, "-n", system, "get", part, "-o", "jsonpath={.spec.template.spec.containers[0].image}")
		old[part] = image
		tagImage(t, image, image+"-next")
	}
	t.Cleanup(func() { setImages(t, old) })
	next := map[string]string{}
	for part, image := range old {
		next[part] = image + "-next"
	}
	for _, step := range []struct {
		name   string
		images map[string]string
	}{{"to the next version", next}, {"and back", old}} {
		t.Run(step.name, func(t *testing.T) {
			f := begin(t, all...)
			began := time.Now()
			setImages(t, step.images)
			rolledOut(t, system, parts...)
			measured(t, "rollout", time.Since(began))
			keepFlowing(5 * time.Second)
			f.end()
		})
	}
}

func setImages(t *testing.T, images map[string]string) {
	t.Helper()
	for _, part := range parts {
		kubectl(t, "-n", system, "set", "image", part, "*="+images[part])
	}
}

// tagImage gives an image of the nodes another name.
func tagImage(t *testing.T, from, to string) {
	t.Helper()
	bin, err := cluster.Build(t.Context(), slog.Default(), "ctr")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range mesh.Nodes() {
		cmd, err := mesh.NodeCommand(t.Context(), n, bin["ctr"], "--namespace", "k8s.io", "images", "tag", "--force", from, to)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("tag %s: %v: %s", from, err, out)
		}
	}
}
