package gateway

import (
	"iter"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weft-mesh/weft/internal/kube"
	"github.com/weft-mesh/weft/internal/state"
)

// unitKind says how a kind of unit is computed. It is all that registers one: unitKinds lists them.
type unitKind struct {
	name string
	// stage orders kinds: units read what units of earlier stages wrote.
	stage stage
	// objects is the table whose rows have units of this kind, each with its row's key. A kind without a table has one
	// unit, with the key "".
	objects func(*kube.Objects) rows
	// compute makes the rows that the unit wants in the model. It reads the view alone. alive is false if the unit need
	// not run again before its object comes back.
	compute func(v *view, key string) (outs []output, alive bool)
}

type stage int

const (
	stageAddresses  stage = iota // which Gateway has which address
	stageListeners               // the listeners of a Gateway and its ListenerSets, as one list
	stageDemands                 // what Services ask of the kernel's tables, and routes of Envoy
	stageBudgets                 // which of them do not get it
	stageSelections              // which pods a policy selects by its Services
	stageConflicts               // which routes conflict on a Gateway or a ListenerSet
	stageRoutes                  // where routes attach; certificates
	stageModel                   // what the planes read
	stageDivisions               // what of it joins rows of others: TCPRoutes and TLSRoutes of Services
	stages
)

// unitKinds are all kinds.
var unitKinds = []*unitKind{
	&addressUnit, &mergeUnits, &demandUnits, &budgetUnit, &httpDemandUnits, &grpcDemandUnits, &tlsDemandUnits, &slotDemandUnits, &routeBudgetUnit, &listenerDemandUnits, &listenerBudgetUnit, &probeDemandUnits, &probeBudgetUnit,
	&selectionUnits, &conflictUnits, &setConflictUnits, &streamPortsUnit, &httpRouteUnits, &grpcRouteUnits, &tlsRouteUnits, &tcpRouteUnits, &udpRouteUnits, &certificateUnits, &backendTLSUnits, &telemetryUnits,
	&workloadUnits, &serviceUnits, &endpointsUnits, &gatewayUnits, &listenerSetUnits, &classUnits, &meshUnits, &policyUnits, &tlsPolicyUnits, &telemetryPolicyUnits, &poolUnits, &nodeUnits, &divisionUnits, &namedDivisionUnits,
}

// unit is one computation.
type unit struct {
	kind *unitKind
	key  string
}

// rows are those of a table of objects.
type rows struct {
	table state.TableID
	keys  func(*state.Snapshot) iter.Seq[string]
}

// rowsOf makes unitKind.objects.
func rowsOf[T metav1.Object](of func(*kube.Objects) *state.Table[T]) func(*kube.Objects) rows {
	return func(o *kube.Objects) rows {
		t := of(o)
		return rows{t.ID(), func(s *state.Snapshot) iter.Seq[string] {
			return func(yield func(string) bool) {
				for obj := range t.All(s) {
					if !yield(kube.Key(obj)) {
						return
					}
				}
			}
		}}
	}
}

// allUnits adds a unit for everything that is there.
func allUnits(o *kube.Objects, s *state.Snapshot, into map[unit]struct{}) {
	for _, kind := range unitKinds {
		if kind.objects == nil {
			into[unit{kind: kind}] = struct{}{}
			continue
		}
		for key := range kind.objects(o).keys(s) {
			into[unit{kind, key}] = struct{}{}
		}
	}
}

// kindsByTable returns the kinds that have units for the rows of each table of objects.
func kindsByTable(o *kube.Objects) map[state.TableID][]*unitKind {
	out := map[state.TableID][]*unitKind{}
	for _, kind := range unitKinds {
		if kind.objects != nil {
			table := kind.objects(o).table
			out[table] = append(out[table], kind)
		}
	}
	return out
}
