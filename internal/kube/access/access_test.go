package access

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// api answers reviews: tokens name users, and users have rights by namespace, "" for all.
type api struct {
	tokens, rights atomic.Int32 // reviews
	fails          atomic.Bool
	may            map[string][]string
}

type tokenReviews struct{ *api }

func (a tokenReviews) Create(_ context.Context, r *authenticationv1.TokenReview, _ metav1.CreateOptions) (*authenticationv1.TokenReview, error) {
	a.tokens.Add(1)
	if a.fails.Load() {
		return nil, errors.New("the API server is away")
	}
	name, _, _ := strings.Cut(r.Spec.Token, ".")
	if _, known := a.may[name]; known {
		r.Status = authenticationv1.TokenReviewStatus{Authenticated: true, Audiences: r.Spec.Audiences, User: authenticationv1.UserInfo{
			Username: name, Groups: []string{"g"}, Extra: map[string]authenticationv1.ExtraValue{credentialID: {r.Spec.Token}},
		}}
	}
	return r, nil
}

type accessReviews struct{ *api }

func (a accessReviews) Create(_ context.Context, r *authorizationv1.SubjectAccessReview, _ metav1.CreateOptions) (*authorizationv1.SubjectAccessReview, error) {
	a.rights.Add(1)
	x := r.Spec.ResourceAttributes
	asked := x.Group == "weft.io" && (x.Resource == "flows" || x.Resource == "config" && r.Spec.User == "admin") && x.Verb == "list" && slices.Equal(r.Spec.Groups, []string{"g"})
	r.Status.Allowed = asked && slices.Contains(a.may[r.Spec.User], x.Namespace)
	return r, nil
}

func newAPI() (*api, *Reviewer) {
	a := &api{may: map[string][]string{"admin": {""}, "shop": {"shop"}, "nobody": {}}}
	return a, NewReviewer(tokenReviews{a}, accessReviews{a}, func() []string { return []string{"store", "shop", "bank"} })
}

func TestReview(t *testing.T) {
	a, r := newAPI()
	for range 3 { // the second and third time from memory
		for token, want := range map[string]string{"admin": "admin true []", "shop": "shop false [shop]", "nobody": "nobody false []"} {
			user, all, namespaces, err := r.Review(t.Context(), "10.0.0.1", token)
			if got := fmt.Sprint(user, " ", all, " ", namespaces); got != want || err != nil {
				t.Errorf("%s: %s, error %v", token, got, err)
			}
		}
	}
	if tokens, rights := a.tokens.Load(), a.rights.Load(); tokens != 3 || rights != 1+4+4 {
		t.Errorf("%d reviews of tokens, %d of rights", tokens, rights)
	}
	// Another resource is another right. Tokens are not reviewed again.
	for token, want := range map[string]string{"admin": "admin true []", "shop": "shop false []"} {
		user, all, namespaces, err := r.For(Config).Review(t.Context(), "10.0.0.1", token)
		if got := fmt.Sprint(user, " ", all, " ", namespaces); got != want || err != nil {
			t.Errorf("%s: %s, error %v", token, got, err)
		}
	}
	if tokens, rights := a.tokens.Load(), a.rights.Load(); tokens != 3 || rights != 1+4+4+1+4 {
		t.Errorf("%d reviews of tokens, %d of rights", tokens, rights)
	}
	if _, _, _, err := r.Review(t.Context(), "10.0.0.1", "x"); !errors.Is(err, ErrToken) {
		t.Errorf("an unknown token: %v", err)
	}
	a.fails.Store(true)
	if _, _, _, err := r.Review(t.Context(), "10.0.0.1", "y"); err == nil || errors.Is(err, ErrToken) {
		t.Errorf("no answer: %v", err)
	}
	if _, _, _, err := r.Review(t.Context(), "10.0.0.1", "admin"); err != nil {
		t.Errorf("what was reviewed a moment ago: %v", err)
	}
}

// TestMadeUpTokens of one address are not reviewed for ever, and do not keep out who was believed.
func TestMadeUpTokens(t *testing.T) {
	a, r := newAPI()
	if _, _, _, err := r.Review(t.Context(), "10.0.0.1", "admin"); err != nil {
		t.Fatal(err)
	}
	for i := range 3 * maxRefusals {
		if _, _, _, err := r.Review(t.Context(), "10.0.0.1", fmt.Sprint("x", i)); err == nil {
			t.Fatal("a made-up token is taken")
		}
	}
	if n := a.tokens.Load(); n > maxRefusals+1 {
		t.Errorf("%d reviews", n)
	}
	for source, token := range map[string]string{"10.0.0.1": "admin", "10.0.0.2": "shop"} {
		if _, _, _, err := r.Review(t.Context(), source, token); err != nil {
			t.Errorf("%s of %s: %v", token, source, err)
		}
	}
}

// TestUsersWithoutRights: a user who may see nothing costs a review for each namespace. What one address asks for such users
// is bounded, also if all comes at once, and does not keep out who has a right.
func TestUsersWithoutRights(t *testing.T) {
	a, r := newAPI()
	for i := range 10 * maxRefusals {
		a.may[fmt.Sprint("nobody", i)] = nil
	}
	if _, _, _, err := r.Review(t.Context(), "10.0.0.1", "shop"); err != nil {
		t.Fatal(err)
	}
	before := a.rights.Load()
	var busy atomic.Int32
	var wg sync.WaitGroup
	for i := range 10 * maxRefusals {
		wg.Go(func() {
			_, all, namespaces, err := r.Review(t.Context(), "10.0.0.1", fmt.Sprint("nobody", i))
			switch {
			case errors.Is(err, ErrBusy):
				busy.Add(1)
			case err != nil || all || len(namespaces) > 0:
				t.Errorf("a user without rights: %v %v, error %v", all, namespaces, err)
			}
		})
	}
	wg.Wait()
	const namespaces = 3
	if n := a.rights.Load() - before - 10*maxRefusals; n > (maxRefusals+maxByNamespace)*namespaces {
		t.Errorf("%d reviews of rights in a namespace", n)
	}
	if busy.Load() == 0 {
		t.Error("no user is told to come later")
	}
	for source, token := range map[string]string{"10.0.0.1": "shop", "10.0.0.2": "nobody"} {
		if _, _, _, err := r.For(Config).Review(t.Context(), source, token); err != nil {
			t.Errorf("%s of %s: %v", token, source, err)
		}
	}
}

// TestManyTokensOfAUser cost one review of his rights, also if they come at once.
func TestManyTokensOfAUser(t *testing.T) {
	a, r := newAPI()
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if _, _, namespaces, err := r.Review(t.Context(), "10.0.0.1", fmt.Sprint("shop.", i)); err != nil || len(namespaces) != 1 {
				t.Errorf("%v, error %v", namespaces, err)
			}
		})
	}
	wg.Wait()
	if n := a.rights.Load(); n != 1+3 {
		t.Errorf("%d reviews of rights", n)
	}
}

func TestAudiences(t *testing.T) {
	jwt := func(claims string) string { return "h." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".s" }
	for token, want := range map[string]string{
		jwt(`{"aud":["a","flows.weft.io"]}`): "[a flows.weft.io]", jwt(`{"aud":"a"}`): "[a]", jwt(`{}`): "[]", jwt(`{"aud":1}`): "[]",
		"opaque": "[]", "a.b.c": "[]", "": "[]",
	} {
		if got := fmt.Sprint(audiences(token)); got != want {
			t.Errorf("%s: %s, want %s", token, got, want)
		}
	}
}

func TestMemory(t *testing.T) {
	now := time.Now()
	m := newMemory[int](2)
	m.put([32]byte{1}, 1, now.Add(-remembered))
	m.put([32]byte{2}, 2, now)
	if _, ok := m.get([32]byte{1}, now); ok {
		t.Error("what is too old is remembered")
	}
	m.put([32]byte{3}, 3, now)
	if v, ok := m.get([32]byte{2}, now); !ok || v != 2 {
		t.Error("what is young went for what is old")
	}
	m.put([32]byte{4}, 4, now)
	if len(m.all) > 2 {
		t.Errorf("%d are remembered", len(m.all))
	}
}
