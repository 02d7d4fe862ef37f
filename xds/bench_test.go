package xds

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/weft-mesh/weft/internal/model"
)

// One Envoy that holds 10,000 scopes and tables; one route table changes. Reported: the server's CPU and the bytes sent
// for a change (both ends of the stream run in this process).
func BenchmarkOneRouteTableOf10000(b *testing.B) {
	const services = 10_000
	w := newWorld(b, Config{})
	caller(w, "a", identity("shop", "a"))
	tx := w.st.Write(w.st.Services, w.st.RouteTables)
	names := make([]string, services)
	for i := range services {
		name := fmt.Sprintf("s%d", i)
		names[i] = model.ServiceTable("shop", name, 80)
		w.st.Services.Put(tx, service(i))
		w.st.RouteTables.Put(tx, tableFor(name, 1, 1))
	}
	tx.Commit()
	start := time.Now()
	c := w.client()
	c.subscribe(TypeScope)
	c.next()
	scopes := time.Since(start)
	c.subscribe(TypeRoute, names...)
	c.next()
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	b.Logf("%d scopes in %v, with tables %v; heap %d MB", services, scopes, time.Since(start), m.HeapAlloc>>20)
	c.bytes = 0
	cpu := cpuTime(b)
	b.ResetTimer()
	for i := range b.N {
		put(w, w.st.RouteTables, tableFor(fmt.Sprintf("s%d", i%services), 2, uint32(i+2)))
		if r := c.next(); len(r.Resources) != 1 {
			b.Fatal(resourceNames(r))
		}
	}
	b.StopTimer()
	b.ReportMetric(float64(cpuTime(b)-cpu)/float64(b.N)/1e3, "cpu-us/op")
	b.ReportMetric(float64(c.bytes)/float64(b.N), "sent-B/op")
}

// The same, and a service appears and goes: only its scopes are sent.
func BenchmarkOneServiceOf10000(b *testing.B) {
	const services = 10_000
	w := newWorld(b, Config{})
	caller(w, "a", identity("shop", "a"))
	tx := w.st.Write(w.st.Services)
	for i := range services {
		w.st.Services.Put(tx, service(i))
	}
	tx.Commit()
	c := w.client()
	c.subscribe(TypeScope)
	c.next()
	cpu := cpuTime(b)
	b.ResetTimer()
	for b.Loop() {
		put(w, w.st.Services, service(services))
		c.next()
		remove(w, w.st.Services, service(services).Key())
		c.next()
	}
	b.ReportMetric(float64(cpuTime(b)-cpu)/float64(b.N)/1e3, "cpu-us/op")
}

func service(i int) *model.Service {
	s := &model.Service{Namespace: "shop", Name: fmt.Sprintf("s%d", i), Ports: []model.ServicePort{{Port: 80, Protocol: model.TCP, L7: true}}}
	s.Addresses = append(s.Addresses, serviceAddress(i))
	return s
}

func tableFor(name string, a, b uint32) *model.RouteTable {
	return &model.RouteTable{
		Name: model.ServiceTable("shop", name, 80),
		VirtualHosts: []model.VirtualHost{{Hosts: []string{"*"}, Rules: []model.Rule{{
			Route:    model.ObjectRef{Kind: "HTTPRoute", Namespace: "shop", Name: name},
			Backends: []model.Backend{to(name, a), to(name+"-canary", b)},
		}}}},
	}
}

func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
