package ca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/mtls"
)

// secrets is what is used of a client of Secrets.
type secrets interface {
	Get(ctx context.Context, name string, opts metav1.GetOptions) (*corev1.Secret, error)
	Create(ctx context.Context, s *corev1.Secret, opts metav1.CreateOptions) (*corev1.Secret, error)
	Update(ctx context.Context, s *corev1.Secret, opts metav1.UpdateOptions) (*corev1.Secret, error)
}

// rootSecret keeps the roots in the Secret, as root-<number>.pem each with its key, sealed.
type rootSecret struct {
	api       secrets
	seal      *seal
	namespace string
	td        string
	log       *slog.Logger
	roots     []*mtls.Root // what it held when it was last read
}

// attempts bounds how often others may be faster.
const attempts = 5

// refresh gives the roots that are to be trusted now, by number. It makes the Secret if there is none, adds the next root
// when it is time, and takes out those that signed nothing that still lives.
func (r *rootSecret) refresh(ctx context.Context, now time.Time) ([]*mtls.Root, error) {
	for range attempts {
		done, err := r.attempt(ctx, now)
		if err != nil {
			return nil, err
		}
		if done {
			return r.roots, nil
		}
	}
	return nil, fmt.Errorf("Secret %s is written by others without end", SecretName)
}

// attempt is false where another replica was faster.
func (r *rootSecret) attempt(ctx context.Context, now time.Time) (done bool, err error) {
	s, err := r.api.Get(ctx, SecretName, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	var roots []*mtls.Root
	switch {
	case missing:
		s = &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
			Name: SecretName, Namespace: r.namespace, Labels: labels(),
		}, Type: corev1.SecretTypeOpaque}
		// A Secret that was deleted gets back what it held: new roots would end all trust.
		roots = r.roots
	case err != nil:
		return false, err
	}
	closed := 0 // entries
	for _, text := range s.Data {
		if sealed(text) {
			closed++
		}
	}
	if err := r.seal.fetch(ctx, closed == 0); err != nil {
		return false, err
	}
	if !missing {
		if roots, err = r.parse(s.Data); err != nil {
			return false, err
		}
	}
	want, err := plan(roots, r.td, s.Annotations[NextRoot], now)
	if err != nil {
		return false, err
	}
	if !missing && closed == len(roots) && slices.Equal(want, roots) {
		r.roots = roots
		return true, nil
	}
	if s.Data, err = r.marshal(want); err != nil {
		return false, err
	}
	if missing {
		_, err = r.api.Create(ctx, s, metav1.CreateOptions{FieldManager: fieldManager})
	} else {
		_, err = r.api.Update(ctx, s, metav1.UpdateOptions{FieldManager: fieldManager})
	}
	switch {
	case apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err) || apierrors.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, err
	}
	r.log.Info("roots of the CA changed", "roots", numbers(want), "before", numbers(roots))
	r.roots = want
	return true, nil
}

// NextRoot is the annotation of the Secret by which an operator asks for the next root, whose number is its value.
const NextRoot = "weft.io/next-root"

// plan adds the next root when the newest is past two thirds of its life or it is asked for, and drops those whose
// successor has signed for longer than anything lives.
func plan(roots []*mtls.Root, td, asked string, now time.Time) ([]*mtls.Root, error) {
	var out []*mtls.Root
	for i, r := range roots {
		ended := !now.Before(r.Cert.NotAfter)
		retired := i+1 < len(roots) && now.After(roots[i+1].Signs().Add(2*intermediateTTL))
		if !ended && !retired {
			out = append(out, r)
		}
	}
	last := 0
	if len(roots) > 0 {
		last = roots[len(roots)-1].Number
	}
	// Of those that do not sign yet there is one at most, however often one is asked for: bundles stay short.
	waits := len(out) > 1 && now.Before(out[len(out)-1].Signs())
	if len(out) == 0 || mtls.NeedsNext(out, now) || asked == strconv.Itoa(last+1) && !waits {
		next, err := mtls.NewRoot(last+1, td, now)
		if err != nil {
			return nil, err
		}
		out = append(out, next)
	}
	return out, nil
}

const rootPrefix, rootSuffix = "root-", ".pem"

// parse fails for anything that is not understood: a new CA in the place of one that is damaged would end all trust.
func (r *rootSecret) parse(data map[string][]byte) ([]*mtls.Root, error) {
	var out []*mtls.Root
	for key, text := range data {
		number, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(key, rootPrefix), rootSuffix))
		if err != nil || number < 1 || key != rootKey(number) {
			return nil, fmt.Errorf("Secret %s: %q is no root of this CA; take it out", SecretName, key)
		}
		var root *mtls.Root
		if text, err = r.seal.open(key, text); err == nil {
			root, err = mtls.ParseRoot(number, r.td, text)
		}
		if err != nil {
			return nil, fmt.Errorf("Secret %s: %s: %w; restore it from a backup, or, to start a new CA that nobody trusts yet, delete the Secret while no controller runs", SecretName, key, err)
		}
		out = append(out, root)
	}
	if len(out) == 0 {
		return nil, errors.New("Secret " + SecretName + " holds no root; restore it from a backup, or delete it while no controller runs to start a new CA")
	}
	slices.SortFunc(out, func(a, b *mtls.Root) int { return a.Number - b.Number })
	return out, nil
}

func (r *rootSecret) marshal(roots []*mtls.Root) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, root := range roots {
		text, err := root.Marshal()
		if err != nil {
			return nil, err
		}
		key := rootKey(root.Number)
		if out[key], err = r.seal.close(key, text); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func rootKey(number int) string { return rootPrefix + strconv.Itoa(number) + rootSuffix }

func numbers(roots []*mtls.Root) []int {
	out := make([]int, len(roots))
	for i, r := range roots {
		out[i] = r.Number
	}
	return out
}

const fieldManager = "weft-controller"

func labels() map[string]string {
	return map[string]string{
		"app.kubernetes.io/name": "weft", "app.kubernetes.io/component": "controller", "app.kubernetes.io/managed-by": "weft",
	}
}
