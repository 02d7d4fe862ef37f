package cni

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"github.com/containernetworking/cni/pkg/types"
)

// Node is what the agent does for the plugin. Errors may be *types.Error; others become internal errors.
type Node interface {
	// Add takes a pod into the mesh and returns when it is in it.
	Add(ctx context.Context, r *Request) error
	// Delete forgets a sandbox. One that is not known is no error.
	Delete(ctx context.Context, r *Request) error
	// Check reports whether a pod is in the mesh.
	Check(ctx context.Context, r *Request) error
	// Collect forgets the sandboxes that came by Add and are not named.
	Collect(ctx context.Context, keep *Keep) error
}

// Handler answers the plugin.
func Handler(n Node) http.Handler {
	mux := http.NewServeMux()
	for path, do := range map[string]func(context.Context, *Request) error{
		pathAdd: n.Add, pathDel: n.Delete, pathCheck: n.Check,
	} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			req, err := decodeRequest(r.Body)
			if err != nil {
				answer(w, http.StatusBadRequest, types.NewError(types.ErrDecodingFailure, "request of the CNI plugin: "+err.Error(), ""))
				return
			}
			answer(w, http.StatusServiceUnavailable, do(r.Context(), req))
		})
	}
	mux.HandleFunc("POST "+pathGC, func(w http.ResponseWriter, r *http.Request) {
		var keep Keep
		if err := decode(r.Body, &keep); err != nil {
			answer(w, http.StatusBadRequest, types.NewError(types.ErrDecodingFailure, "request of the CNI plugin: "+err.Error(), ""))
			return
		}
		answer(w, http.StatusServiceUnavailable, n.Collect(r.Context(), &keep))
	})
	return mux
}

// answer writes nothing for no error, which is 200.
func answer(w http.ResponseWriter, status int, err error) {
	if err == nil {
		return
	}
	var e *types.Error
	if !errors.As(err, &e) {
		e = types.NewError(types.ErrInternal, err.Error(), "")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(e) // the plugin may be gone
}
