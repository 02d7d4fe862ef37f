package demo

import (
	"context"

	"github.com/weft-mesh/weft/internal/api"
	"github.com/weft-mesh/weft/internal/servicemap/web"
)

// mapPage is the service map of the demo's node.
type mapPage struct {
	url string
	end func() // returns when it is no longer served
}

// serveMap serves the page on loopback.
func (d *demo) serveMap(ctx context.Context) (*mapPage, error) {
	page, err := web.Listen("127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := page.ServeView(ctx, api.ServiceMap{{Client: d.node.API}}); err != nil {
			d.text("The service map ended: %v", err)
		}
	}()
	return &mapPage{url: page.URL, end: func() {
		cancel()
		<-done
	}}, nil
}
