package placement

import (
	"maps"
	"slices"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// podCgroupsEvery is how often the kubelet's cgroups are searched for. They are there before the agent, which is a pod
// itself, and change only if somebody reconfigures the kubelet.
const podCgroupsEvery = 30 * time.Second

// findPodCgroups writes the cgroups that the kubelet puts pods into. Rows of cgroups that are gone go with them, unless none
// is found: that is no answer.
func (s *Sandboxes) findPodCgroups() {
	if time.Since(s.podCgroupsAt) < podCgroupsEvery {
		return
	}
	s.podCgroupsAt = time.Now()
	found := s.cfg.Scanner.kubelets("", depthAbove)
	if len(found) == 0 {
		s.mu.Lock()
		s.warn("", "the cgroup that the kubelet puts pods into was not found: pods in the host's network count as the host's own processes where strict pods are probed",
			"below", s.cfg.Scanner.CgroupRoot)
		s.mu.Unlock()
		return
	}
	want := map[string]bool{}
	for _, path := range found {
		want[path] = true
	}
	table := s.cfg.State.PodCgroups
	have := map[string]bool{}
	for c := range table.All(s.cfg.State.Snapshot()) {
		have[c.Path] = true
	}
	if maps.Equal(have, want) {
		return
	}
	w := s.cfg.State.Write(table)
	defer w.Commit()
	for _, path := range slices.Sorted(maps.Keys(want)) {
		table.Put(w, &model.PodCgroup{Path: path})
	}
	for path := range have {
		if !want[path] {
			table.Delete(w, path)
		}
	}
}
