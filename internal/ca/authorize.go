package ca

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/mtls"
)

// Cluster tells who runs where.
type Cluster interface {
	// Runs reports whether a pod of a ServiceAccount is on a node and has not ended.
	Runs(node, namespace, serviceAccount string) bool
	// Gateway reports whether there is a Gateway of the mesh's own that a node may serve.
	Gateway(node, namespace, name string) bool
	// NodeOf gives the node of a pod; "" if there is no such pod.
	NodeOf(namespace, name, uid string) string
	// NamespaceUID gives a namespace's UID; "" if there is no such namespace.
	NamespaceUID(name string) string
}

// reviewer is what is used of a client of TokenReviews.
type reviewer interface {
	Create(ctx context.Context, r *authenticationv1.TokenReview, opts metav1.CreateOptions) (*authenticationv1.TokenReview, error)
}

// Keys of what the API server tells of a token that is bound to a pod.
const (
	extraNode = "authentication.kubernetes.io/node-name"
	extraPod  = "authentication.kubernetes.io/pod-name"
	extraUID  = "authentication.kubernetes.io/pod-uid"
)

// errToken is for tokens that prove nothing, errAgent for those that prove to be somebody else's.
var (
	errToken = errors.New("the token is not one for the audience " + mtls.Audience + " that the API server knows")
	errAgent = errors.New("the token is not that of an agent's pod")
)

// agentNode gives the node that the agent with this token runs on.
func agentNode(ctx context.Context, api reviewer, cluster Cluster, namespace, token string) (string, error) {
	review, err := api.Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{mtls.Audience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("the API server does not review the token: %w", err)
	}
	st := review.Status
	if !st.Authenticated || !slices.Contains(st.Audiences, mtls.Audience) {
		return "", errToken
	}
	if st.User.Username != "system:serviceaccount:"+namespace+":"+AgentAccount {
		return "", fmt.Errorf("%w: it is %s's", errAgent, st.User.Username)
	}
	one := func(key string) string {
		if v := st.User.Extra[key]; len(v) == 1 {
			return v[0]
		}
		return ""
	}
	node := one(extraNode)
	if node == "" && one(extraPod) != "" {
		node = cluster.NodeOf(namespace, one(extraPod), one(extraUID))
	}
	if node == "" {
		return "", fmt.Errorf("%w: it is bound to no pod that has a node", errAgent)
	}
	return node, nil
}

// A pod may be known to the agent, which asks as soon as it is there, a moment before it is known here.
const lag, lagPoll = time.Second, 50 * time.Millisecond

// allowed reports whether the agent of a node may have an identity; no answer before end is final but yes.
func allowed(ctx context.Context, cluster Cluster, meshNamespace, node string, w *wish, end time.Time) error {
	for {
		if cluster.Runs(node, w.namespace, w.serviceAccount) {
			return nil
		}
		// Whoever may make Gateways in our namespace must not become the controller.
		if w.namespace != meshNamespace && cluster.Gateway(node, w.namespace, w.serviceAccount) {
			return nil
		}
		if !time.Now().Before(end) {
			return fmt.Errorf("no pod of ServiceAccount %s/%s runs on node %s, and there is no Gateway of that name that the node may serve", w.namespace, w.serviceAccount, node)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(lagPoll):
		}
	}
}
