package kube

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
)

func TestTrustedHops(t *testing.T) {
	for text, want := range map[string]uint32{"0": 0, "1": 1, "16": 16} {
		if n, problem := TrustedHops(gatewayWith(text)); n != want || problem != "" {
			t.Errorf("%q: %d, %q", text, n, problem)
		}
	}
	for _, text := range []string{"", "-1", "17", "one", "1.5", "0x1", "99999999999999999999"} {
		if n, problem := TrustedHops(gatewayWith(text)); n != 0 || !strings.Contains(problem, "no number from 0 to 16") {
			t.Errorf("%q: %d, %q", text, n, problem)
		}
	}
	if n, problem := TrustedHops(&gwv1.Gateway{}); n != 0 || problem != "" {
		t.Errorf("without it: %d, %q", n, problem)
	}
}

func gatewayWith(hops string) *gwv1.Gateway {
	return &gwv1.Gateway{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{AnnotationTrustedHops: hops}}}
}
