package controller

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	gwv1 "sigs.k8s.io/gateway-api/apis/v1"
	gwxv1 "sigs.k8s.io/gateway-api/apisx/v1alpha1"

	"github.com/weft-mesh/weft/gateway"
	"github.com/weft-mesh/weft/internal/model"
)

// defaultName is that of the GatewayClass and of the XMesh.
const defaultName = "weft"

// defaultObject is one that every cluster needs.
type defaultObject struct {
	gk  schema.GroupKind
	obj runtime.Object
}

// defaultObjects are the class that Gateways name, and the place where the mesh tells what it supports.
func defaultObjects() []defaultObject {
	meta := metav1.ObjectMeta{Name: defaultName, Labels: map[string]string{"app.kubernetes.io/name": "weft"}}
	return []defaultObject{
		{schema.GroupKind{Group: gwv1.GroupName, Kind: "GatewayClass"}, &gwv1.GatewayClass{
			ObjectMeta: meta, Spec: gwv1.GatewayClassSpec{ControllerName: gateway.ControllerName},
		}},
		{schema.GroupKind{Group: gwxv1.GroupName, Kind: "XMesh"}, &gwxv1.XMesh{
			ObjectMeta: meta, Spec: gwxv1.MeshSpec{ControllerName: gateway.ControllerName},
		}},
	}
}

// look is how often missing objects are looked for. A kind without objects that comes or goes changes no table.
const look = time.Second

// keepDefaults creates the objects that are missing whenever their kind is installed, until the context ends. What is
// there is never changed.
func (c *Controller) keepDefaults(ctx context.Context) {
	t := time.NewTicker(look)
	defer t.Stop()
	reported := map[schema.GroupKind]string{}
	for {
		for _, d := range defaultObjects() {
			problem := c.keepDefault(ctx, d)
			if problem != "" && problem != reported[d.gk] && ctx.Err() == nil {
				c.cfg.Log.Warn("failed to create or update a default object", "kind", d.gk.Kind, "name", defaultName, "problem", problem)
			}
			reported[d.gk] = problem
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// keepDefault creates an object if it is missing, and says what is wrong.
func (c *Controller) keepDefault(ctx context.Context, d defaultObject) string {
	if !c.cluster.Installed(d.gk) {
		return ""
	}
	if o, ok := c.objs.Get(c.st.Snapshot(), d.gk, model.Key("", defaultName)); ok {
		if name := controllerName(o); name != gateway.ControllerName {
			return "it belongs to another controller, " + name
		}
		return ""
	}
	err := c.cluster.Create(ctx, d.gk, d.obj)
	switch {
	case err == nil:
		c.cfg.Log.Info("created a default object", "kind", d.gk.Kind, "name", defaultName)
	case apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err): // the watch will tell
	default:
		return err.Error()
	}
	return ""
}

func controllerName(o metav1.Object) string {
	switch o := o.(type) {
	case *gwv1.GatewayClass:
		return string(o.Spec.ControllerName)
	case *gwxv1.XMesh:
		return string(o.Spec.ControllerName)
	}
	return ""
}
