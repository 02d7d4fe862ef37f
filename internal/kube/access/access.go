// Package access asks the API server who somebody is and what he may see: TokenReviews and SubjectAccessReviews, with a
// short memory.
package access

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// Audience is that of tokens that are good for the flows API alone. Tokens for the API server are taken too.
	Audience = "flows.weft.io"
	// group and verb are what a role must allow, of a resource.
	group, verb = "weft.io", "list"

	// remembered is how long a review counts; a right that is withdrawn counts as long.
	remembered = 20 * time.Second
	// maxTokens and maxUsers bound what is remembered, maxReviews what is asked of the API server at once, and maxNamespaces how
	// many namespaces are asked about for a user without the right for all.
	maxTokens, maxUsers = 4096, 1024
	maxReviews          = 16
	maxNamespaces       = 5000
	// maxByNamespace bounds the users about whom each namespace is asked at once. There are slots left for others meanwhile.
	maxByNamespace = 4
	// reviewTimeout bounds a review of what a user may see, which may answer several callers.
	reviewTimeout = 30 * time.Second
)

// Resources that a role may allow to list. There are no objects of these kinds.
const (
	Flows = "flows"
	// Config is what the mesh makes of objects, and whether it works.
	Config = "config"
)

// Errors of Review.
var (
	ErrToken = errors.New("the token is not one that the API server knows, for its own audience or for " + Audience)
	ErrBusy  = errors.New("too many tokens of this address were refused; try again in a minute")
)

// TokenReviewer is what is used of a client of TokenReviews.
type TokenReviewer interface {
	Create(ctx context.Context, r *authenticationv1.TokenReview, opts metav1.CreateOptions) (*authenticationv1.TokenReview, error)
}

// RightsReviewer is what is used of a client of SubjectAccessReviews.
type RightsReviewer interface {
	Create(ctx context.Context, r *authorizationv1.SubjectAccessReview, opts metav1.CreateOptions) (*authorizationv1.SubjectAccessReview, error)
}

// Reviewer says in which namespaces the bearer of a token may list a resource.
type Reviewer struct {
	*reviews
	resource string
}

// reviews are shared by the Reviewers of all resources.
type reviews struct {
	tokens     TokenReviewer
	rights     RightsReviewer
	namespaces func() []string
	refusals   Refusals
	users      *memory[authenticationv1.UserInfo] // by the token
	scopes     *memory[scope]                     // by the user
	asking     singleflight.Group                 // by the user: several requests of one ask once
	slots      chan struct{}
	byName     chan struct{} // a place for each user about whom each namespace is asked
}

// For returns a Reviewer for another resource. It shares what is remembered, and the bounds.
func (r *Reviewer) For(resource string) *Reviewer { return &Reviewer{r.reviews, resource} }

// scope is what a user may see.
type scope struct {
	all        bool
	namespaces []string // sorted
}

func (s scope) any() bool { return s.all || len(s.namespaces) > 0 }

// NewReviewer makes a Reviewer for Flows. namespaces returns the names of all namespaces.
func NewReviewer(tokens TokenReviewer, rights RightsReviewer, namespaces func() []string) *Reviewer {
	return &Reviewer{&reviews{
		tokens: tokens, rights: rights, namespaces: namespaces, slots: make(chan struct{}, maxReviews), byName: make(chan struct{}, maxByNamespace),
		users: newMemory[authenticationv1.UserInfo](maxTokens), scopes: newMemory[scope](maxUsers),
	}, Flows}
}

// Review returns the name of the bearer of a token, and whether he may list the resource in all namespaces, or else in
// which, sorted. source is the address that the token came from. The error wraps ErrToken or ErrBusy, or is the API server's.
func (r *Reviewer) Review(ctx context.Context, source, token string) (user string, all bool, namespaces []string, err error) {
	u, err := r.user(ctx, source, token)
	if err != nil {
		return "", false, nil, err
	}
	s, err := r.scopeOf(ctx, source, token, &u)
	if err != nil {
		return "", false, nil, err
	}
	if s.any() {
		r.refusals.Believe(token, time.Now())
	}
	return u.Username, s.all, s.namespaces, nil
}

// user reviews a token, unless that was done a moment ago.
func (r *Reviewer) user(ctx context.Context, source, token string) (authenticationv1.UserInfo, error) {
	key := sha256.Sum256([]byte(token))
	if u, known := r.users.get(key, time.Now()); known {
		return u, nil
	}
	if r.refusals.TooMany(source, token, time.Now()) {
		return authenticationv1.UserInfo{}, ErrBusy
	}
	spec := authenticationv1.TokenReviewSpec{Token: token}
	if slices.Contains(audiences(token), Audience) {
		spec.Audiences = []string{Audience}
	}
	if err := r.slot(ctx); err != nil {
		return authenticationv1.UserInfo{}, err
	}
	review, err := r.tokens.Create(ctx, &authenticationv1.TokenReview{Spec: spec}, metav1.CreateOptions{})
	<-r.slots
	switch {
	case err != nil:
		return authenticationv1.UserInfo{}, err
	case !review.Status.Authenticated || review.Status.User.Username == "",
		spec.Audiences != nil && !slices.Contains(review.Status.Audiences, Audience):
		r.refusals.Refused(source, time.Now())
		return authenticationv1.UserInfo{}, ErrToken
	}
	r.users.put(key, review.Status.User, time.Now())
	return review.Status.User, nil
}

// audiences returns those that a token says that it is for, before anybody has checked it: they only choose what the API
// server is asked. nil for a token that is no JWT (RFC 7519).
func audiences(token string) []string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil
	}
	var many struct{ Aud []string }
	if json.Unmarshal(text, &many) == nil {
		return many.Aud
	}
	var one struct{ Aud string }
	if json.Unmarshal(text, &one) == nil {
		return []string{one.Aud}
	}
	return nil
}

// credentialID is what is different in each token of a user.
const credentialID = "authentication.kubernetes.io/credential-id"

// scopeOf returns what the bearer of a token may see. All tokens of a user, and all requests that come while he is reviewed,
// ask once: who may make tokens of a ServiceAccount can make any number.
func (r *Reviewer) scopeOf(ctx context.Context, source, token string, u *authenticationv1.UserInfo) (scope, error) {
	user := *u
	user.Extra = maps.Clone(u.Extra)
	delete(user.Extra, credentialID)
	text, err := json.Marshal(struct {
		Resource string
		User     authenticationv1.UserInfo
	}{r.resource, user})
	if err != nil {
		return scope{}, err
	}
	key := sha256.Sum256(text)
	if s, known := r.scopes.get(key, time.Now()); known {
		return s, nil
	}
	answer := r.asking.DoChan(string(key[:]), func() (any, error) {
		if s, known := r.scopes.get(key, time.Now()); known {
			return s, nil
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reviewTimeout)
		defer cancel()
		s, err := r.scope(ctx, source, token, u)
		if err == nil {
			r.scopes.put(key, s, time.Now())
		}
		return s, err
	})
	select {
	case a := <-answer:
		s, _ := a.Val.(scope)
		return s, a.Err
	case <-ctx.Done():
		return scope{}, ctx.Err()
	}
}

// scope asks for all namespaces, and if that is refused for each. Who turns out to have no right in any has cost a review for
// each, so his token counts as one that was refused.
func (r *Reviewer) scope(ctx context.Context, source, token string, u *authenticationv1.UserInfo) (scope, error) {
	all, err := r.allowed(ctx, u, "")
	if err != nil || all {
		return scope{all: all}, err
	}
	select {
	case r.byName <- struct{}{}:
		defer func() { <-r.byName }()
	case <-ctx.Done():
		return scope{}, ctx.Err()
	}
	if r.refusals.TooMany(source, token, time.Now()) {
		return scope{}, ErrBusy
	}
	s, err := r.eachNamespace(ctx, u)
	if err == nil && !s.any() {
		r.refusals.Refused(source, time.Now())
	}
	return s, err
}

func (r *Reviewer) eachNamespace(ctx context.Context, u *authenticationv1.UserInfo) (scope, error) {
	names := r.namespaces()
	if len(names) > maxNamespaces {
		return scope{}, fmt.Errorf("the cluster has %d namespaces; for more than %d, %s are for those who may list those of all", len(names), maxNamespaces, r.resource)
	}
	yes := make([]bool, len(names))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxReviews)
	for i, name := range names {
		g.Go(func() (err error) {
			yes[i], err = r.allowed(ctx, u, name)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return scope{}, err
	}
	var out scope
	for i, name := range names {
		if yes[i] {
			out.namespaces = append(out.namespaces, name)
		}
	}
	slices.Sort(out.namespaces)
	return out, nil
}

// allowed asks about a namespace; "" is all.
func (r *Reviewer) allowed(ctx context.Context, u *authenticationv1.UserInfo, namespace string) (bool, error) {
	extra := map[string]authorizationv1.ExtraValue{}
	for key, value := range u.Extra {
		extra[key] = authorizationv1.ExtraValue(value)
	}
	if err := r.slot(ctx); err != nil {
		return false, err
	}
	defer func() { <-r.slots }()
	review, err := r.rights.Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: u.Username, UID: u.UID, Groups: u.Groups, Extra: extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: namespace, Group: group, Resource: r.resource, Verb: verb},
	}}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return review.Status.Allowed && !review.Status.Denied, nil
}

// slot waits until the API server may be asked. Free it by a receive from r.slots.
func (r *Reviewer) slot(ctx context.Context) error {
	select {
	case r.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
