package cluster

import (
	"strings"
	"testing"
)

func TestComponentsArePinned(t *testing.T) {
	for _, name := range Everything {
		c, err := componentOf(name)
		if err != nil {
			t.Fatal(err)
		}
		sources, err := c.sources()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if c.path != "" && (c.version(sources["go.mod"]) == "v0.0.0" || sources["go.sum"] == nil) {
			t.Errorf("%s: modules/%s.mod and .sum do not pin %s", name, c.name, c.path)
		}
	}
	if _, err := componentOf("kube-proxy"); err == nil {
		t.Error("an unknown binary has a component")
	}
}

func TestVersion(t *testing.T) {
	c := component{path: "k8s.io/kubernetes"}
	for mod, want := range map[string]string{
		"module m\nrequire k8s.io/kubernetes v1.2.3\n":                                                   "v1.2.3",
		"require (\n\tk8s.io/kubernetes/x v9.9.9\n\tk8s.io/kubernetes v1.2.4 // indirect\n)\n":           "v1.2.4",
		"tool k8s.io/kubernetes\nreplace k8s.io/kubernetes => k8s.io/other v3.0.0\n":                     "v0.0.0",
		"replace k8s.io/kubernetes v1.0.0 => k8s.io/x v1.1.1\n\nrequire k8s.io/kubernetes v1.0.0-rc.1\n": "v1.0.0-rc.1",
	} {
		if got := c.version([]byte(mod)); got != want {
			t.Errorf("version of %q: got %s, want %s", mod, got, want)
		}
	}
}

func TestKeyChangesWithWhatIsBuilt(t *testing.T) {
	base := component{name: "c", path: "example.com/c", tags: "a"}
	sources := map[string][]byte{"go.mod": []byte("require example.com/c v1.0.0"), "go.sum": []byte("x")}
	key := base.key(sources)
	if key != base.key(sources) || !strings.HasPrefix(key, "c-v1.0.0-") {
		t.Errorf("key %s: want c-v1.0.0- and always the same hash", key)
	}
	tagged, flagged := base, base
	tagged.tags = "b"
	flagged.ldflags = kubernetesVersion
	for what, other := range map[string]string{
		"tags": tagged.key(sources), "ldflags": flagged.key(sources),
		"sum": base.key(map[string][]byte{"go.mod": sources["go.mod"], "go.sum": []byte("y")}),
	} {
		if other == key {
			t.Errorf("other %s, same key %s", what, key)
		}
	}
}

func TestKubernetesVersion(t *testing.T) {
	got := kubernetesVersion("v1.37.2")
	for _, want := range []string{
		"-X k8s.io/component-base/version.gitVersion=v1.37.2", "-X k8s.io/component-base/version.gitMinor=37",
		"-X k8s.io/client-go/pkg/version.gitVersion=v1.37.2",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("flags %q lack %q", got, want)
		}
	}
}
