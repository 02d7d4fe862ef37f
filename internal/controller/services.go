package controller

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/model"
	"github.com/weft-mesh/weft/internal/state"
)

// serviceAPI is what is asked of the API server; *cluster.Cluster does it.
type serviceAPI interface {
	patcher
	Service(ctx context.Context, key string) (*corev1.Service, error)
	Apply(ctx context.Context, gk schema.GroupKind, key string, manifest []byte, force bool) error
	Delete(ctx context.Context, gk schema.GroupKind, key string, uid types.UID) error
}

var serviceKind = schema.GroupKind{Kind: "Service"}

// services keeps a Service for each Gateway of ours. Its items are keys of Gateways.
type services struct {
	objs  *kube.Objects
	st    *state.State
	notes *state.Table[*note]
	api   serviceAPI
	log   *slog.Logger
	queue *queue[string]

	mu sync.Mutex
	// wanted names the Gateway by the key of the Service that it shall have, so that a Service of somebody else that is
	// in the way is noticed when it goes.
	wanted map[string]string
}

func newServices(objs *kube.Objects, st *state.State, notes *state.Table[*note], api serviceAPI, log *slog.Logger) *services {
	s := &services{objs: objs, st: st, notes: notes, api: api, log: log, wanted: map[string]string{}}
	s.queue = newQueue(log, "Service of a Gateway", s.sync)
	return s
}

// run looks at every Gateway and every Service that was made for one, and then at those that change, until the context
// ends.
func (s *services) run(ctx context.Context) {
	feed := s.st.Feed()
	defer feed.Close()
	snap := s.st.Snapshot()
	for gw := range s.objs.Gateways.All(snap) {
		s.queue.Add(kube.Key(gw))
	}
	for svc := range s.objs.Services.All(snap) {
		if owner, ok := ownerOf(svc); ok {
			s.queue.Add(model.Key(svc.Namespace, owner.Name))
		}
	}
	s.queue.run(ctx, feed, s.items)
}

func (s *services) items(k state.Key, add func(string)) {
	if k.Index != "" {
		return
	}
	switch k.Table {
	case s.objs.Gateways.ID(), s.st.Gateways.ID():
		add(k.Value)
	case s.st.Statuses.ID():
		if kind, key := splitRef(k.Value); kind == "Gateway" {
			add(key)
		}
	case s.objs.Services.ID():
		s.mu.Lock()
		gw, ok := s.wanted[k.Value]
		s.mu.Unlock()
		if ok {
			add(gw)
		}
		if svc, there := s.objs.Services.Get(s.st.Snapshot(), k.Value); there {
			if owner, ours := ownerOf(svc); ours {
				add(model.Key(svc.Namespace, owner.Name))
			}
		}
	}
}

// sync makes, changes or deletes the Service of a Gateway.
func (s *services) sync(ctx context.Context, key string) error {
	snap := s.st.Snapshot()
	gw, ok := s.objs.Gateways.Get(snap, key)
	ref := model.ObjectRef{Group: gwv1.GroupName, Kind: "Gateway"}
	ref.Namespace, ref.Name = model.SplitKey(key)
	var want *corev1.Service
	status, ours := s.st.Statuses.Get(snap, ref.String())
	if ok && ours && gw.DeletionTimestamp == nil {
		var served []model.GatewayPort
		if row, ok := s.st.Gateways.Get(snap, key); ok {
			served = row.Ports
		}
		want = gatewayService(gw, served)
	}
	s.remember(key, want)
	if ok && !ours && !s.classKnown(snap, gw) {
		return nil // a class that was deleted may come back: keep what is there
	}
	if err := s.deleteOthers(ctx, snap, ref, gw, want); err != nil {
		return err
	}
	if want == nil {
		s.note(ref, "", "")
		return nil
	}
	have, _ := s.objs.Services.Get(snap, kube.Key(want))
	taken, err := s.apply(ctx, have, want)
	switch {
	case taken:
		s.note(ref, "NameInUse", fmt.Sprintf(
			"Service %s is somebody else's; delete or rename it, or rename the Gateway, for it to get a Service", want.Name))
		return nil
	case err != nil && !apierrors.IsConflict(err) && ctx.Err() == nil:
		s.note(ref, "NotWritten", fmt.Sprintf("Service %s cannot be written: %v", want.Name, err))
		return err
	case err != nil:
		return err
	}
	s.note(ref, "", "")
	return s.applyStatus(ctx, have, status.Addresses)
}

func (s *services) remember(gateway string, want *corev1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, gw := range s.wanted {
		if gw == gateway {
			delete(s.wanted, k)
		}
	}
	if want != nil {
		s.wanted[kube.Key(want)] = gateway
	}
}

func (s *services) classKnown(snap *state.Snapshot, gw *gwv1.Gateway) bool {
	_, ok := s.objs.GatewayClasses.Get(snap, model.Key("", string(gw.Spec.GatewayClassName)))
	return ok
}

// deleteOthers deletes the Services that were made for the Gateway, or for an earlier one of its name, and are not the
// one that is wanted.
func (s *services) deleteOthers(ctx context.Context, snap *state.Snapshot, ref model.ObjectRef, gw *gwv1.Gateway, want *corev1.Service) error {
	for svc := range s.objs.Services.By(snap, kube.ByNamespace, ref.Namespace) {
		owner, ok := ownerOf(svc)
		if !ok || owner.Name != ref.Name || want != nil && svc.Name == want.Name && owner.UID == gw.UID {
			continue
		}
		s.log.Info("deleted the Service of a Gateway that no longer needs it", "service", kube.Key(svc), "gateway", owner.Name)
		if err := s.api.Delete(ctx, serviceKind, kube.Key(svc), svc.UID); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete Service %s: %w", kube.Key(svc), err)
		}
	}
	return nil
}

// apply makes the Service what it shall be. taken tells that the name is somebody else's.
func (s *services) apply(ctx context.Context, have, want *corev1.Service) (taken bool, err error) {
	text, err := manifest(want)
	if err != nil {
		return false, err
	}
	if have == nil {
		// The watch may be behind, and a Service of somebody else must not be taken over.
		if have, err = s.api.Service(ctx, kube.Key(want)); err != nil {
			return false, err
		}
	}
	if have == nil {
		return false, s.api.Apply(ctx, serviceKind, kube.Key(want), text, false)
	}
	if owner, ok := ownerOf(have); !ok || owner.Name != want.OwnerReferences[0].Name {
		return true, nil
	}
	if applied(have, want) {
		return false, nil
	}
	return false, s.api.Apply(ctx, serviceKind, kube.Key(want), text, true)
}

// applyStatus writes the Gateway's addresses into its Service. One that was just made is written when the watch shows it.
func (s *services) applyStatus(ctx context.Context, have *corev1.Service, addrs []string) error {
	if have == nil {
		return nil
	}
	want := ingress(addrs)
	if equality.Semantic.DeepEqual(have.Status.LoadBalancer.Ingress, want) {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"loadBalancer": map[string]any{"ingress": want}}})
	if err != nil {
		return fmt.Errorf("write the status of Service %s: %w", kube.Key(have), err)
	}
	return s.api.PatchStatus(ctx, serviceKind, kube.Key(have), patch)
}

// note tells in the Gateway's status what is wrong with its Service; reason "" takes it back.
func (s *services) note(gw model.ObjectRef, reason, message string) {
	before, there := s.notes.Get(s.st.Snapshot(), gw.String())
	if reason == "" {
		if there {
			w := s.st.Write(s.notes)
			defer w.Abort()
			s.notes.Delete(w, gw.String())
			w.Commit()
		}
		return
	}
	n := &note{gw, []model.Condition{{Type: model.ConditionServiceReady, Reason: reason, Message: message}}}
	if there && equality.Semantic.DeepEqual(before.conditions, n.conditions) {
		return
	}
	w := s.st.Write(s.notes)
	defer w.Abort()
	s.notes.Put(w, n)
	w.Commit()
}
