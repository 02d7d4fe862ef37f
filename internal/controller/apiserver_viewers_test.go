//go:build cluster

package controller

import (
	"fmt"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/weft-mesh/weft/internal/kube/access"
)

// The ClusterRoles that are shipped allow what they are for, in the namespaces where they are bound, as a controller with its own
// rights finds out.
func rightsOfViewers(t *testing.T, w *caWorld) {
	for _, ns := range []string{"viewed", "unseen"} {
		w.create(`{apiVersion: v1, kind: Namespace, metadata: {name: ` + ns + `}}`)
	}
	bind := func(account, role string, cluster bool) {
		w.account("viewed", account)
		kind, place := "RoleBinding", ", namespace: viewed"
		if cluster {
			kind, place = "ClusterRoleBinding", ""
		}
		w.create(`{apiVersion: rbac.authorization.k8s.io/v1, kind: ` + kind + `, metadata: {name: ` + account + place + `},
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: ` + role + `},
subjects: [{kind: ServiceAccount, name: ` + account + `, namespace: viewed}]}`)
	}
	bind("viewer", "weft-viewer", false)
	bind("flows", "weft-flows-viewer", false)
	bind("all", "weft-viewer", true)
	own := kubernetes.NewForConfigOrDie(w.as("controller"))
	for _, tc := range []struct{ account, flows, config string }{
		{"viewer", "false [viewed]", "false [viewed]"}, {"flows", "false [viewed]", "false []"}, {"all", "true []", "true []"},
	} {
		spec := authenticationv1.TokenRequestSpec{Audiences: []string{access.Audience}}
		token, err := w.client.CoreV1().ServiceAccounts("viewed").CreateToken(t.Context(), tc.account, &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for resource, want := range map[string]string{access.Flows: tc.flows, access.Config: tc.config} {
			var got string
			w.until(tc.account+" may list "+resource+" as "+want, func() bool { // a role that was bound a moment ago counts soon
				r := access.NewReviewer(own.AuthenticationV1().TokenReviews(), own.AuthorizationV1().SubjectAccessReviews(),
					func() []string { return []string{"viewed", "unseen"} }).For(resource)
				_, all, namespaces, err := r.Review(t.Context(), "10.0.0.1", token.Status.Token)
				if err != nil {
					t.Fatal(err)
				}
				got = fmt.Sprint(all, " ", namespaces)
				return got == want
			})
		}
	}
}
