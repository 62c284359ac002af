//! Which things stand where: the draw of one street from a domain's plan.

use super::building::Building;
use super::camera::Camera;
use super::canvas::Canvas;
use super::car::Car;
use super::ground::{Blot, Ground};
use super::person::Person;
use super::post::{Head, Post};
use super::sky;
use super::style::{chance, tint, within, Look, Palette, Plan, Style};
use super::tree::Tree;
use crate::error::Result;
use crate::rng::Rng;

/// Nothing stands nearer than this, so that no single thing fills the picture.
const NEAR: f32 = 4.5;
/// Houses line the street up to here; small things only up to the second distance, where they span a few pixels.
const FAR: f32 = 90.0;
const FAR_SMALL: f32 = 30.0;

enum Thing {
    Building(Building),
    Car(Car),
    Person(Person),
    Post(Post),
    Tree(Tree),
}

impl Thing {
    fn depth(&self) -> f32 {
        match self {
            Self::Building(b) => b.near,
            Self::Car(c) => c.z,
            Self::Person(p) => p.z,
            Self::Post(p) => p.z,
            Self::Tree(t) => t.z,
        }
    }
}

pub struct Scene {
    camera: Camera,
    ground: Ground,
    /// Between the facades, nearest first.
    street: Vec<Thing>,
    /// The facades and what stands between them, nearest first.
    rows: Vec<Thing>,
}

impl Scene {
    pub fn draw(style: &Style, look: &Look, height: usize, width: usize, rng: &mut Rng) -> Result<Self> {
        let plan = &style.plan;
        let (height, width) = (height as f32, width as f32);
        let camera = Camera {
            focal: within(rng, plan.focal) * width,
            center: width * within(rng, (0.4, 0.6)),
            horizon: height * within(rng, plan.horizon),
            height: within(rng, plan.camera_height),
            bend: within(rng, (-plan.bend, plan.bend)),
        };
        let near = within(rng, (9.0, 35.0));
        let ground = Ground {
            road_half: within(rng, plan.road_half),
            pavement: within(rng, plan.pavement),
            junction: chance(rng, plan.junction).then_some((near, near + 9.0)),
            crossing: chance(rng, 0.25).then_some(within(rng, (6.0, 20.0))),
            lanes: 2 + 2 * rng.below(2)?,
            verge: [chance(rng, plan.verge), chance(rng, plan.verge)],
            facade_shadow: within(rng, (0.0, 8.0)),
            blots: Vec::new(),
        };
        let mut author = Author { plan, palette: &style.palette, camera, ground, rng };
        let mut rows = author.rows(look)?;
        let mut street = author.cars()?;
        street.extend(author.posts()?);
        street.extend(author.trees()?);
        street.extend(author.persons()?);
        let ground = author.ground;
        for things in [&mut rows, &mut street] {
            things.sort_by(|a, b| a.depth().total_cmp(&b.depth()));
        }
        Ok(Self { camera, ground, street, rows })
    }

    pub fn paint(&self, look: &Look, canvas: &mut Canvas) {
        for thing in self.street.iter().chain(&self.rows) {
            match thing {
                Thing::Building(b) => b.paint(&self.camera, look, canvas),
                Thing::Car(c) => c.paint(&self.camera, look, canvas),
                Thing::Person(p) => p.paint(&self.camera, look, canvas),
                Thing::Post(p) => p.paint(&self.camera, look, canvas),
                Thing::Tree(t) => t.paint(&self.camera, look, canvas),
            }
        }
        self.ground.paint(&self.camera, look, canvas);
        sky::paint(&self.camera, look, canvas);
    }
}

struct Author<'a> {
    plan: &'a Plan,
    palette: &'a Palette,
    camera: Camera,
    ground: Ground,
    rng: &'a mut Rng,
}

impl Author<'_> {
    fn within(&mut self, low: f32, high: f32) -> f32 {
        within(self.rng, (low, high))
    }

    fn blot(&mut self, x: f32, z: f32, half_x: f32, half_z: f32) {
        self.ground.blots.push(Blot { x, z, half_x, half_z });
    }

    fn in_junction(&self, z: f32, margin: f32) -> bool {
        self.ground.junction.is_some_and(|(near, far)| z > near - margin && z < far + margin)
    }

    /// Houses on both sides, with trees in the gaps, and the end of the street.
    fn rows(&mut self, look: &Look) -> Result<Vec<Thing>> {
        let mut things = Vec::new();
        for side in [-1.0, 1.0] {
            let mut z = self.within(1.5, 5.0);
            let open = if self.ground.verge[usize::from(side > 0.0)] { self.within(2.0, 7.0) } else { 0.0 };
            while z < FAR {
                let length = self.within(7.0, 18.0);
                let junction = self.ground.junction.filter(|&(near, far)| z < far && z + length > near);
                if let Some((near, far)) = junction {
                    if z + 4.0 < near {
                        things.push(self.building(side, open, z, near, look)?);
                    }
                    z = far + 0.5;
                    continue;
                }
                if chance(self.rng, self.plan.gap) {
                    let lateral = side * (self.ground.road_half + self.ground.pavement + open + self.within(1.5, 5.0));
                    let (x, size) = (self.camera.street(lateral, z + 3.0), self.within(1.0, 1.6));
                    things.push(self.tree(x, z + 3.0, size)?);
                } else {
                    things.push(self.building(side, open, z, z + length, look)?);
                }
                z += length;
            }
        }
        // Beyond the last houses the street ends in trees.
        let step = self.within(5.0, 9.0);
        let end = self.camera.street(0.0, FAR + 5.0);
        for i in -7..=7 {
            let size = self.within(0.8, 1.8);
            things.push(self.tree(end + i as f32 * step, FAR + 5.0, size)?);
        }
        Ok(things)
    }

    fn building(&mut self, side: f32, open: f32, near: f32, far: f32, look: &Look) -> Result<Thing> {
        let p = self.palette;
        let lateral = self.ground.road_half + self.ground.pavement + open + self.within(0.0, 0.8);
        let wall = self.camera.street(side * lateral, (near + far.min(40.0)) / 2.0);
        let storey = self.within(2.8, 3.4);
        let eaves = storey * within(self.rng, self.plan.storeys).floor() + 0.5;
        let pitched = chance(self.rng, 0.5);
        let depth = self.within(8.0, 14.0);
        Ok(Thing::Building(Building {
            wall,
            back: wall + side * depth,
            near,
            far,
            eaves,
            ridge: eaves + if pitched { self.within(1.5, 3.5) } else { 0.0 },
            rgb: tint(self.rng, p.wall, p.spread)?,
            roof_rgb: tint(self.rng, p.roof, p.spread)?,
            glass: tint(self.rng, p.glass, p.spread)?,
            storey,
            bay: self.within(2.0, 3.4),
            window: (self.within(0.35, 0.7), self.within(0.4, 0.65)),
            shop: chance(self.rng, 0.4),
            brick: chance(self.rng, 0.4),
            seed: look.seed ^ self.rng.u64() as u32,
        }))
    }

    /// Parked along both kerbs, driving in the lanes, and crossing at the junction.
    fn cars(&mut self) -> Result<Vec<Thing>> {
        let mut things = Vec::new();
        let half = self.ground.road_half;
        // Right-hand traffic: what comes towards the camera keeps left of the middle.
        let rows = [
            (-half + 1.1, self.plan.parked, 1.0, false),
            (half - 1.1, self.plan.parked, 1.0, true),
            (-0.27 * half, self.plan.moving, 1.6, false),
            (0.27 * half, self.plan.moving, 1.6, true),
        ];
        for (lateral, density, spacing, rear) in rows {
            let mut z = self.within(NEAR, 12.0);
            while z < FAR_SMALL {
                if chance(self.rng, density) && !self.in_junction(z + 2.0, 3.0) {
                    let offset = self.within(-0.2, 0.2);
                    let x = self.camera.street(lateral + offset, z + 2.0);
                    things.push(self.car(x, z, rear, false)?);
                }
                z += self.within(6.0, 11.0) * spacing;
            }
        }
        if let Some((near, _)) = self.ground.junction {
            if chance(self.rng, 0.5) {
                let (x, z) = (self.within(-8.0, 8.0), near + self.within(2.0, 7.0));
                things.push(self.car(x, z, true, true)?);
            }
        } else if chance(self.rng, self.plan.crossing) {
            let (x, z) = (self.within(-0.6, 0.6) * half, self.within(14.0, 30.0));
            things.push(self.car(x, z, true, true)?);
        }
        Ok(things)
    }

    fn car(&mut self, x: f32, z: f32, rear: bool, across: bool) -> Result<Thing> {
        let p = self.palette;
        let van = chance(self.rng, 0.2);
        let length = if van { self.within(4.6, 5.6) } else { self.within(3.7, 4.6) };
        let cabin = match (van, rear) {
            (true, true) => (0.0, 0.82),
            (true, false) => (0.18, 1.0),
            (false, true) => (self.within(0.02, 0.15), 0.74),
            (false, false) => (0.26, self.within(0.85, 0.98)),
        };
        let width = self.within(1.7, 1.9);
        if across {
            self.blot(x, z + 0.6, 0.6 * length, 0.9);
        } else {
            self.blot(x, z + length / 2.0, 0.62 * width, 0.58 * length);
        }
        Ok(Thing::Car(Car {
            x,
            z,
            width,
            length,
            height: if van { self.within(1.9, 2.3) } else { self.within(1.38, 1.55) },
            deck: if van { 1.1 } else { self.within(0.82, 0.95) },
            cabin,
            rear,
            across,
            rgb: tint(self.rng, p.paint, p.spread)?,
            glass: tint(self.rng, &[[0.12, 0.14, 0.17], [0.18, 0.20, 0.23]], 0.02)?,
        }))
    }

    fn posts(&mut self) -> Result<Vec<Thing>> {
        let p = self.palette;
        let mut things = Vec::new();
        for side in [-1.0, 1.0] {
            let mut z = self.within(NEAR + 1.0, 14.0);
            while z < FAR_SMALL {
                if chance(self.rng, self.plan.posts) && !self.in_junction(z, 0.5) {
                    let lateral = side * (self.ground.road_half + self.within(0.35, 0.9));
                    let x = self.camera.street(lateral, z);
                    let head = if chance(self.rng, self.plan.signs) {
                        [Head::Disc, Head::Triangle, Head::Square, Head::TrafficLight][self.rng.below(4)?]
                    } else {
                        [Head::Bare, Head::Lamp][self.rng.below(2)?]
                    };
                    let tall = matches!(head, Head::Bare | Head::Lamp);
                    let height = if tall { self.within(4.5, 7.5) } else { self.within(2.6, 3.4) };
                    self.blot(x, z, 0.3, 0.25);
                    things.push(Thing::Post(Post {
                        x,
                        z,
                        height,
                        half: if tall { self.within(0.17, 0.25) } else { self.within(0.12, 0.16) },
                        head,
                        plate: self.within(0.55, 0.85),
                        rgb: tint(self.rng, p.metal, p.spread)?,
                        plate_rgb: tint(self.rng, p.sign, p.spread)?,
                    }));
                }
                z += self.within(5.0, 11.0);
            }
        }
        Ok(things)
    }

    /// Trees along the pavement.
    fn trees(&mut self) -> Result<Vec<Thing>> {
        let mut things = Vec::new();
        for side in [-1.0, 1.0] {
            // A street has trees along a side or it has not.
            if !chance(self.rng, self.plan.trees) {
                continue;
            }
            let mut z = self.within(6.0, 14.0);
            while z < 60.0 {
                if chance(self.rng, 0.6) && !self.in_junction(z, 1.0) {
                    let lateral = side * (self.ground.road_half + self.within(0.8, self.ground.pavement * 0.8));
                    let (x, size) = (self.camera.street(lateral, z), self.within(0.6, 1.0));
                    things.push(self.tree(x, z, size)?);
                }
                z += self.within(6.0, 12.0);
            }
        }
        Ok(things)
    }

    fn tree(&mut self, x: f32, z: f32, size: f32) -> Result<Thing> {
        let p = self.palette;
        let bush = chance(self.rng, 0.15);
        let conifer = chance(self.rng, 0.15);
        let trunk_top = if bush { 0.2 } else { size * self.within(2.0, 3.2) };
        let mut balls = Vec::new();
        if conifer && !bush {
            for tier in 0..5 {
                let t = tier as f32;
                balls.push((0.0, trunk_top * 0.6 + size * (0.8 + 1.1 * t), size * (1.5 - 0.27 * t)));
            }
        } else {
            let spread = if bush { 0.7 } else { 1.5 } * size;
            for _ in 0..4 + self.rng.below(4)? {
                let (dx, dy) = (self.within(-1.0, 1.0) * spread, self.within(0.2, 1.6) * spread);
                balls.push((dx, trunk_top + dy, spread * self.within(0.55, 0.9)));
            }
        }
        self.blot(x, z, 1.2 * size, 0.8 * size);
        Ok(Thing::Tree(Tree {
            x,
            z,
            trunk: self.within(0.12, 0.24) * size,
            trunk_top: trunk_top + 0.5 * size,
            balls,
            rgb: tint(self.rng, p.leaf, p.spread)?,
            seed: self.rng.u64() as u32,
        }))
    }

    fn persons(&mut self) -> Result<Vec<Thing>> {
        let p = self.palette;
        let mut things = Vec::new();
        let (least, most) = self.plan.persons;
        for _ in 0..least + self.rng.below(most - least + 1)? {
            let z = self.within(NEAR, 16.0);
            let side = if chance(self.rng, 0.5) { 1.0 } else { -1.0 };
            let lateral = if chance(self.rng, self.plan.jaywalk) {
                self.within(-1.0, 1.0) * self.ground.road_half
            } else {
                side * (self.ground.road_half + self.within(0.5, self.ground.pavement.max(1.0)))
            };
            let x = self.camera.street(lateral, z);
            self.blot(x, z, 0.4, 0.25);
            things.push(Thing::Person(Person {
                x,
                z,
                height: self.within(1.5, 1.92),
                stride: self.within(0.0, 0.09),
                girth: self.within(0.11, 0.15),
                coat: chance(self.rng, 0.3),
                bag: chance(self.rng, 0.3),
                upper: tint(self.rng, p.cloth, p.spread)?,
                lower: tint(self.rng, p.cloth, p.spread)?,
                skin: tint(self.rng, p.skin, 0.03)?,
                hair: tint(self.rng, &[[0.14, 0.10, 0.08], [0.45, 0.34, 0.20], [0.5, 0.5, 0.5]], 0.03)?,
            }));
        }
        Ok(things)
    }
}
