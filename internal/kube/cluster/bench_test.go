package cluster

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/rest"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/state"
)

// BenchmarkListServices takes in a list of 5,000 Services as an API server sends it: what an agent does at its start.
func BenchmarkListServices(b *testing.B) {
	list := &corev1.ServiceList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ServiceList"}}
	for i := range 5000 {
		name := fmt.Sprintf("service-%d", i)
		list.Items = append(list.Items, corev1.Service{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "shop", Name: name, UID: types.UID("00000000-0000-4000-8000-00000000" + fmt.Sprintf("%04d", i)), ResourceVersion: "123456",
				Labels: map[string]string{"app.kubernetes.io/name": name, "app.kubernetes.io/managed-by": "Helm"},
				ManagedFields: []metav1.ManagedFieldsEntry{{
					Manager: "helm", Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1", FieldsType: "FieldsV1",
					FieldsV1: metav1.NewFieldsV1(`{"f:metadata":{"f:labels":{".":{},"f:app.kubernetes.io/name":{}}},"f:spec":{"f:ports":{},"f:selector":{}}}`),
				}},
			},
			Spec: corev1.ServiceSpec{
				ClusterIP: fmt.Sprintf("10.96.%d.%d", i/250, i%250+1), Selector: map[string]string{"app.kubernetes.io/name": name},
				Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(8080)}},
				Type:  corev1.ServiceTypeClusterIP, SessionAffinity: corev1.ServiceAffinityNone,
			},
		})
	}
	for _, mediaType := range []string{runtime.ContentTypeProtobuf, runtime.ContentTypeJSON} {
		b.Run(mediaType, func(b *testing.B) {
			c := New(&rest.Config{Host: "https://127.0.0.1:1"}, kube.NewObjects(state.NewDB()), Options{})
			info, _ := runtime.SerializerInfoForMediaType(c.clients.codecs.SupportedMediaTypes(), mediaType)
			text, err := runtime.Encode(info.Serializer, list)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				c := New(&rest.Config{Host: "https://127.0.0.1:1"}, kube.NewObjects(state.NewDB()), Options{})
				s, err := c.source(corev1.SchemeGroupVersion.WithKind("Service").GroupKind())
				if err != nil {
					b.Fatal(err)
				}
				got := &corev1.ServiceList{}
				if _, _, err := info.Serializer.Decode(text, nil, got); err != nil {
					b.Fatal(err)
				}
				st, items := &store{s}, make([]any, len(got.Items))
				trim := st.Transformer()
				for i := range got.Items {
					if items[i], err = trim(&got.Items[i]); err != nil {
						b.Fatal(err)
					}
				}
				if err := st.Replace(items, "1"); err != nil || c.objs.Services.Len(c.objs.DB.Snapshot()) != len(list.Items) {
					b.Fatal(err)
				}
			}
		})
	}
}
