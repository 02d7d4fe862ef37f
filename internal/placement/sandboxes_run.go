package placement

import (
	"context"
	"path/filepath"
	"time"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// searchEvery is how often pods without a placement are searched for.
const searchEvery = 2 * time.Second

// Placed is closed when the pods that ran at the start have been searched for once. Before, a pod without a placement may
// be one that runs.
func (s *Sandboxes) Placed() <-chan struct{} { return s.searched }

// Run searches for pods, and forgets those that are gone, until ctx ends.
func (s *Sandboxes) Run(ctx context.Context) error {
	feed := s.cfg.Objects.DB.Feed(s.cfg.Objects.Pods)
	defer feed.Close()
	select {
	case <-ctx.Done():
		return nil
	case <-s.cfg.Loaded:
	}
	moved := watchMounts(ctx, s.cfg.Log)
	_, snap := feed.Take()
	pods := s.cfg.Objects.NodePods(snap, s.cfg.Node)
	s.look(pods)
	close(s.searched)
	ours := state.Key{Table: s.cfg.Objects.Pods.ID(), Index: kube.ByNode, Value: s.cfg.Node}
	tick := time.NewTicker(searchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-feed.Ready():
			keys, snap := feed.Take()
			if _, ok := keys[ours]; ok {
				pods = s.cfg.Objects.NodePods(snap, s.cfg.Node)
				s.settle(pods)
			}
		case <-moved:
			s.settle(pods)
		case <-tick.C:
			s.search(pods)
			s.findPodCgroups()
		}
	}
}

// look removes placements whose pod or namespace is gone, and searches for pods that have none.
func (s *Sandboxes) look(pods []kube.NodePod) {
	s.settle(pods)
	s.search(pods)
	s.findPodCgroups()
}

// settle removes the placements of pods that are gone, and those whose namespace is.
func (s *Sandboxes) settle(pods []kube.NodePod) {
	there := make(map[string]bool, len(pods))
	for _, pod := range pods {
		there[pod.UID] = true
	}
	here := s.current()
	changed := false
	s.mu.Lock()
	for uid, p := range s.rows {
		if there[uid] {
			s.known[uid] = true
		}
		if s.known[uid] && !there[uid] || !here(p) {
			s.remove(p)
			changed = true
		}
	}
	for uid := range s.deleted {
		if !there[uid] {
			delete(s.deleted, uid)
		}
	}
	for uid := range s.warned {
		if uid != "" && !there[uid] {
			delete(s.warned, uid)
		}
	}
	s.mu.Unlock()
	if changed {
		s.save()
	}
}

// search looks for the pods without a placement.
func (s *Sandboxes) search(pods []kube.NodePod) {
	missing := s.missing(pods)
	if len(missing) == 0 {
		return
	}
	found, err := s.cfg.Scanner.Find(missing)
	if s.take(pods, found, err) {
		s.save()
	}
}

// missing returns the UIDs of pods without a placement.
func (s *Sandboxes) missing(pods []kube.NodePod) map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]bool{}
	for _, pod := range pods {
		if s.rows[pod.UID] == nil {
			out[pod.UID] = true
		}
	}
	return out
}

// take writes rows of the pods that were found. It reports whether there is one.
func (s *Sandboxes) take(pods []kube.NodePod, found map[string]Found, err error) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.warn("", "failed to search for pods that started without the CNI plugin", "error", err)
	}
	for _, pod := range pods {
		f, ok := found[pod.UID]
		if !ok || s.rows[pod.UID] != nil || s.deleted[pod.UID] == f.ID {
			continue
		}
		if f.Hidden != "" {
			s.warn(pod.UID, "a pod is not in the mesh: a later mount hides the name of its network namespace",
				"pod", pod.Namespace+"/"+pod.Name, "name", f.Hidden,
				"remedy", "unmount what was mounted over "+s.cfg.Scanner.NetNSDir+" (findmnt -R shows it), or start the pod again")
			continue
		}
		if f.NetNS == "" {
			s.warn(pod.UID, "a pod is not in the mesh: its network namespace has no name",
				"pod", pod.Namespace+"/"+pod.Name, "folder", s.cfg.Scanner.NetNSDir)
			continue
		}
		s.known[pod.UID] = true
		s.put(&model.Placement{
			Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, NetNS: filepath.Join(s.cfg.Scanner.NetNSDir, f.NetNS),
			Device: f.ID.dev, Inode: f.ID.ino, Cgroup: f.Cgroup,
		})
		changed = true
		s.cfg.Log.Info("found a pod that runs", "pod", pod.Namespace+"/"+pod.Name, "netns", f.NetNS)
	}
	return changed
}
