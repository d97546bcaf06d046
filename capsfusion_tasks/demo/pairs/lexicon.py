"""Words of image captions by domain, written by hand. No caption of a data set was used."""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(" ".join(part.split()) for part in text.split(",") if part.strip())


@dataclass(frozen=True)
class Domain:
    """What captions of one kind of image talk about.

    `nouns`: what a captioning model calls the subject; `title`: what a web page calls it; `props`: things the subject has,
    with an article; `poses`: participle phrases that say where or how it is seen. `kind` chooses the sentence frames.
    """

    kind: str
    nouns: tuple[str, ...]
    title: tuple[str, ...]
    props: tuple[str, ...]
    poses: tuple[str, ...]


COLOURS = _phrases(
    """red, blue, green, black, white, yellow, orange, purple, pink, brown, grey, gray, silver, gold, beige, teal, navy,
    navy blue, turquoise, dark green, light blue, dark blue, cream, burgundy, coral, mint, ivory, charcoal, lavender,
    rose gold, olive, maroon, khaki, tan, bronze, copper, magenta, violet, royal blue, hot pink, black and white"""
)
MATERIALS = _phrases(
    """oak, wood, leather, cotton, steel, stainless steel, glass, ceramic, plastic, wool, silk, linen, velvet, marble,
    brass, bamboo, canvas, paper, rubber, denim, suede, porcelain, concrete, aluminum, sterling silver, walnut, pine, resin,
    bronze, crystal, nylon, polyester, cashmere, fleece, rattan, iron, copper, granite, clay, felt, satin, lace, vinyl"""
)
ADJECTIVES = _words(
    """large small big tiny old new modern vintage antique beautiful colorful wooden round square long short tall narrow wide
    dark bright shiny simple elegant rustic classic traditional digital handmade decorative floral striped fresh empty busy
    young happy smiling sleeping wild cute fluffy plain stylish luxury cozy open closed abstract retro rare original famous
    historic ancient royal golden dusty quiet heavy soft sharp smooth rough thin thick clean wet dry snowy sunny foggy cloudy
    electric portable folding matching stacked broken painted carved framed glossy matte transparent tropical rural urban"""
)
GIVEN_NAMES = _words(
    """James Mary John Anna Robert Linda Michael Sarah David Emma William Olivia Thomas Sophie Daniel Maria Paul Laura Mark
    Julia George Kate Steven Helen Andrew Alice Kevin Grace Brian Emily Peter Rachel Simon Chloe Adam Hannah Eric Lucy Jack
    Ella Henry Rose Oscar Nina Carlos Elena Juan Carmen Luis Rosa Pierre Claire Jean Marie Hans Greta Lars Ingrid Ivan Olga
    Boris Natasha Ahmed Fatima Omar Leila Yuki Kenji Wei Mei Raj Priya Amit Sunita Ali Zara Kofi Amara Jose Luca Marco Giulia
    Sven Astrid Pavel Katya Joe Bill Tom Ben Sam Max Leo Mia Eva Amy Jane Ruth Frank Victor Walter Edgar Frida Diego Jennifer
    Jessica Ashley Taylor Jordan Ryan Justin Chris Anthony Patrick Matthew Joshua Elizabeth Victoria Margaret Charles Edward"""
)
SURNAMES = _words(
    """Smith Johnson Brown Jones Miller Davis Wilson Moore Taylor Anderson Jackson White Harris Martin Thompson Garcia Clark
    Lewis Walker Hall Young King Wright Hill Scott Green Adams Baker Nelson Carter Mitchell Roberts Turner Phillips Campbell
    Parker Evans Edwards Collins Stewart Morris Rogers Reed Cook Morgan Bell Murphy Bailey Cooper Richardson Cox Howard Ward"""
)
CITIES = _phrases(
    """London, Paris, New York, Berlin, Rome, Madrid, Tokyo, Sydney, Chicago, Boston, Los Angeles, San Francisco, Oslo,
    Stockholm, Vienna, Prague, Dublin, Lisbon, Athens, Moscow, Istanbul, Cairo, Mumbai, Delhi, Bangkok, Singapore, Seoul,
    Beijing, Shanghai, Hong Kong, Toronto, Vancouver, Montreal, Miami, Dallas, Houston, Denver, Seattle, Portland, Austin,
    Atlanta, Las Vegas, San Diego, Venice, Florence, Milan, Barcelona, Amsterdam, Brussels, Zurich, Geneva, Munich, Hamburg,
    Edinburgh, Glasgow, Manchester, Liverpool, Bristol, Oxford, Cambridge, Brighton, Melbourne, Auckland, Cape Town, Nairobi,
    Lagos, Marrakech, Dubai, Jerusalem, Havana, Lima, Bogota, Rio de Janeiro, Buenos Aires, Mexico City, Santiago, Kyoto,
    Hanoi, Manila, Jakarta, Bali, Krakow, Warsaw, Budapest, Copenhagen, Helsinki, Reykjavik, Nashville, New Orleans, Orlando,
    Philadelphia, Washington, Detroit, Cleveland, Phoenix, Sacramento, Brooklyn, Manhattan, Hollywood, Charleston, Savannah"""
)
COUNTRIES = _phrases(
    """England, France, Germany, Italy, Spain, Portugal, Norway, Sweden, Denmark, Finland, Iceland, Ireland, Scotland, Wales,
    Poland, Greece, Turkey, Russia, Ukraine, Hungary, Croatia, Serbia, Romania, Bulgaria, Austria, Switzerland, Belgium,
    Netherlands, USA, Canada, Mexico, Brazil, Argentina, Chile, Peru, Colombia, Cuba, Japan, China, India, Thailand, Vietnam,
    Indonesia, Malaysia, Australia, New Zealand, South Africa, Kenya, Egypt, Morocco, Nigeria, Ghana, Israel, Iran, Nepal,
    UK, United States, United Kingdom, California, Texas, Florida, Ohio, Oregon, Utah, Maine, Virginia, Georgia, Alaska,
    Hawaii, Colorado, Arizona, Nevada, Michigan, Ontario, Quebec, Tuscany, Bavaria, Cornwall, Yorkshire, Kent, Devon, NY, CA,
    TX, FL, OH, NC, WA, IL, PA, MA, NJ, VA"""
)
MONTHS = _words("January February March April May June July August September October November December")
SHORT_MONTHS = _words("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec")
SEASONS = _phrases(
    "Spring, Summer, Autumn, Fall, Winter, Christmas, Easter, Halloween, Valentine's Day, Thanksgiving, Mother's Day"
)
BRANDS = _words(
    """Nike Adidas Ford Toyota Honda BMW Audi Porsche Volkswagen Mercedes Ferrari Chevrolet Jeep Nissan Sony Samsung Apple LG
    Canon Nikon Dell Disney Lego Marvel Gucci Prada Chanel Rolex Omega Seiko Casio IKEA Bosch Philips Panasonic Puma Levi's
    Vans Converse Yamaha Fender Gibson Kodak Lenovo Asus Intel Microsoft Google Amazon Nintendo Xbox Barbie Coach Fossil"""
)

# Words of titles, headlines and product names, of any domain.
TITLE_NOUNS = _words(
    """Dream Heart Night Light Shadow River Mountain Ocean Garden House Home Story Stories World Life Love Time Day Days Star
    Moon Sun Fire Water Wind Storm Rain Snow Winter Summer Spring Road Journey Path Bridge Tower Castle King Queen Prince
    Princess Knight Dragon Wolf Lion Tiger Bear Eagle Raven Rose Lily Flower Tree Forest Island Sea Beach Harbor Bay Lake
    Valley Hill Field Farm Village City Street Market Station Train Ship Boat Plane Car Truck Bike Wheel Engine Machine Robot
    Space Planet Galaxy Future Past History War Peace Hero Legend Myth Magic Secret Mystery Treasure Gold Silver Diamond
    Crystal Glass Mirror Window Door Room Kitchen Table Chair Lamp Book Page Letter Word Song Music Dance Party Wedding Gift
    Holiday Christmas Halloween Guide Course Lesson School College University Library Museum Gallery Art Design Style Fashion
    Collection Series Edition Volume Chapter Part Set Pack Box Bag Case Cover Kit Tool Board Game Toy Puzzle Card Print Poster
    Map Flag Sign Logo Icon Pattern Texture Background Template Report Review News Update Event Show Festival Concert Match
    Race Cup League Team Club Band Group Family Baby Kids Boys Girls Men Women Mother Father Brother Sister Friend Friends
    Doctor Teacher Chef Artist Writer Soldier Police Farmer Worker Manager Director President Minister Mayor Captain Coach
    Player Singer Actor Actress Model Bride Groom Angel Ghost Witch Monster Zombie Vampire Alien Dog Cat Horse Bird Fish
    Butterfly Bee Fox Rabbit Owl Elephant Monkey Turtle Snake Food Recipe Cake Bread Cheese Chocolate Coffee Tea Wine Beer
    Salad Soup Pizza Pasta Chicken Beef Fruit Apple Lemon Orange Strawberry Sugar Salt Pepper Oil Health Beauty Skin Hair Face
    Body Hand Eye Foot Shoe Dress Shirt Jacket Coat Hat Ring Necklace Bracelet Watch Phone Tablet Laptop Computer Screen
    Camera Lens Photo Video Film Movie Radio Speaker Battery Charger Cable Software Network Internet Website Blog Business
    Company Office Market Money Bank Price Sale Deal Shop Store Service Project Plan Idea Ideas Tips Ways Things Reasons
    Trip Travel Tour Hotel Resort Pool Spa Restaurant Cafe Bar Park Zoo Church Temple Palace Hall Theatre Stadium Airport
    Hospital Factory Power Energy Paper Wood Metal Stone Steel Fabric Cotton Leather Wall Floor Roof Bath Bathroom Bedroom
    Bed Sofa Desk Shelf Cabinet Drawer Curtain Pillow Blanket Rug Vase Candle Clock Frame Basket Bottle Cup Mug Plate Bowl"""
)
TITLE_ADJECTIVES = _words(
    """Little Great Big New Old Last First Second Final Lost Hidden Secret Silent Broken Golden Silver Black White Red Blue
    Green Dark Bright Wild Free True Perfect Beautiful Sweet Lucky Happy Sad Angry Brave Bold Eternal Infinite Magic Royal
    Sacred Ancient Modern Classic Vintage Retro Digital Electric Smart Mini Super Ultra Pro Premium Deluxe Official Original
    Authentic Custom Personalized Handmade Natural Organic Pure Fresh Easy Quick Simple Best Top Amazing Awesome Ultimate
    Essential Complete Advanced Basic Professional Portable Adjustable Waterproof Wireless Foldable Outdoor Indoor Heavy Light
    Large Small Medium Long Short Slim Wide High Low Double Single Triple Twin Full Half Round Square Flat Soft Hard Warm Cool
    Hot Cold Dry Wet Rustic Elegant Luxury Cute Funny Scary Creative Colorful Floral Striped Printed Embroidered Matte Glossy
    American British French German Italian Spanish Japanese Chinese Indian African Russian Dutch Swedish Mexican Turkish Irish
    Scottish European Asian International National Local Global Annual Daily Weekly Monthly Public Private Open Closed"""
)
TITLE_VERBS = _words(
    """Finding Making Building Cooking Learning Running Walking Dancing Dreaming Painting Reading Writing Playing Singing
    Flying Riding Driving Sailing Climbing Swimming Hunting Fishing Camping Growing Living Loving Leaving Losing Winning
    Fighting Saving Breaking Opening Closing Celebrating Exploring Discovering Visiting Meeting Watching Waiting Sleeping
    Standing Sitting Looking Talking Working Teaching Shopping Selling Buying Wearing Cleaning Fixing Drawing Designing"""
)
HEAD_VERBS = _words(
    """announces unveils launches wins opens visits reveals presents introduces celebrates joins leaves leads beats loses plans
    releases reports confirms signs supports receives calls returns speaks performs arrives attends faces warns hosts meets
    makes takes gets shows brings gives keeps helps wants needs says starts ends adds builds"""
)

# Words that join others.
SMALL_WORDS = _words(
    """of the and in for to with from on at a by or as is are your our my this that into over under about after
    before how what who it all more not you can has have was be an its their his her between near without during
    through around when where one two three also will up out new very some no these they we than just so been
    being which there here other only"""
)

# More common words, for captions without a domain.
COMMON_WORDS = _words(
    """accessories account action active add address adult afternoon agency air album alternative amount angle anniversary
    appear application area arm arms army around arrive article association attack attention audience auto autumn available
    award away back bad balance ball band banner base basic bear beard began behind believe below beside birthday bit
    blonde board boost border born bottom bought bowl branch break breakfast breathtaking bring broadcast brother budget build
    built burning button cake calendar call came campaign capital care career carry cast catch cause cell center central
    century ceremony chain challenge champion change chapter character charity chart check child church circle class clay client
    climate clinic close cloth clothes cloud coast code collar collect college comfort comfortable coming comment community
    compact compare competition concept condition connect contact contemporary content contest control cool corner correct
    cost cotton count country county couple course court create cross culture cup current custom customer cut cycle daily
    damage dark data daughter deal decade decorate deep delicious delivery demand department depth design desk detail develop
    device diet different dinner direct dish distance district document dollar done double down dozen draw dress drink drive
    drop dry during each ear early earth east easy economy edge edition education effect egg eight election element emergency
    employee end enjoy enough entrance environment equipment error estate evening ever every everyone evidence example
    excellent exchange exercise exhibit expect experience expert extra fabulous fact fair faith fall famous fan fantastic far
    fast favorite feature federal feel fence few fiber fight figure file fill final find fine finger finish fire firm fit five
    flash flight float flow focus follow forever form former forward found four frame free frequency friend front full fun fund
    furniture gas gate gear general gentle get girl give glass glitter global glow go goal good government grade grand grant
    gray great ground group grow guard guest guide gun gym hair half hall hand handle hang happen hard head health hear heat
    height help hero hide highway hill hip hire hit hold hole homemade hope horizontal host hour household huge human hundred
    husband ice idea image impact important improve include income increase independent industry infant influence information
    ingredient inside inspiration inspired install instant instruction insurance interest interior international introduction
    investment invite item jersey job join joint joy judge jump junior just keep key kid kind kiss kit lace ladder lady land
    language large last late laugh launch law layer lead leader leaf league learn least leather left leg legal less let level
    license lift light limit line link lip liquid list little live load local location lock logo look loss lot love low lower
    lunch machine main major make male manage manual many mark marriage mask mass master match material matter mean measure
    media medical medium meet member memory men menu message method middle mile military milk mind mine minimal minute mirror
    miss mission mix mobile mode moment month mood morning motion motor mount mouth move multi muscle nail name narrow nation
    nature neck need needle network never next nice nine noise none normal north nose note nothing notice number nurse object
    offer officer often oil okay online only opening operation opinion option order ordinary organic orange other outfit oven
    overall owner pace package page pain pair palace pan panel pants parent part partner pass passenger past patch patient pay
    peak people perfect performance period person pet photo photograph photographer physical pick picture piece pile pilot pin
    pipe plant plastic platform play please plus pocket point pole policy political pond popular port position positive post
    pot pound powder power practice prayer present press pretty prevent price pride primary print prior prize problem process
    produce product profile program promise protect protection protest proud prove provide public pull pump purchase purpose
    push quality quarter question quote rack rail raise range rate raw reach read ready real rear receive record recycled
    region relax release remote remove rent repair replacement request rescue research rest result retail return rice rich
    right rise risk rock role roll root rope row rule run rural safe safety same sand sauce save scale scene schedule science
    score sea seal search season seat second section security see self senior sense series serve session seven shade shape
    share sheet shelter shine shirt short shot shoulder shower side sight signed silk similar since site six size skill skirt
    sky sleeve slice slow smart smile smoke snack social society soft soldier solid solution son soon sound source south spa
    space special speech speed spice spirit sport spot square staff stage stainless stair stand standard state statement
    stay step stick still stock stone stop strap strategy stream strength stress stretch strip strong student studio study
    stuff stunning style subject success suit supply surface surprise swim switch symbol system tail take talent talk tank
    tape target task taste tax tea technology teen tell ten tent term test text thank thick thing think third thousand
    thread ticket tie tight tile till tiny tip title today together token tone tonight tool tooth total touch tourist toward
    trade traffic training transfer transport travel treat treatment trend trial trim trust try tube turn type ultimate
    understand uniform union unique unit universe upper urban use used user utility vacation value variety vector vehicle
    version vertical view visit visitor voice volume vote wait wake wall want warm wash waste wave wealth wear weather week
    weekend weight west wheel whole wife win wing wire wish wonder wooden work workout world worth yard year yellow young
    youth zone amazing beautiful adorable gorgeous lovely perfect awesome cheap discount wholesale quality brand genuine"""
)

# Subjects and settings of captions that a captioning model writes.
SETTINGS = _phrases(
    """on a white background, in front of a window, on a wooden table, in a field, on the beach, in the snow, on a street,
    at night, in a room, against a black background, in the background, near the water, under a tree, in a park, on the grass,
    next to a wall, on a shelf, at sunset, in the sky, on a white surface, in a garden, on a couch, in a store, on the floor,
    in front of a building, with mountains in the background, on a city street, in the rain, at the top of a hill,
    on a blue background, in a kitchen, in an office, on stage, in the forest, by the sea, over the city, on the wall,
    in a box, on a plate, in the dark, on a desk, on a bed, in a glass case, beside a fence, behind a counter, at a party,
    in a parking lot, on a boat, on a rock, along the river"""
)

DOMAINS: dict[str, Domain] = {
    "cars": Domain(
        "product",
        _phrases("""car, sports car, truck, SUV, motorcycle, van, sedan, convertible, pickup truck, race car, jeep, wheel,
        tire, engine, vehicle, bus, scooter, tractor, car seat, dashboard, headlight, steering wheel"""),
        _phrases("""Coupe, Sedan, Convertible, Roadster, Hatchback, SUV, Pickup, Cabriolet, Wagon, Turbo, Hybrid, Sport, GT,
        Alloy Wheel, Front Bumper, Brake Pads, Shock Absorbers, Exhaust System, Headlights, Floor Mats, Oil Filter, Roof Rack,
        Touring Motorcycle, Race Car, Fire Truck, Camper Van, Tractor, Diesel Engine, Spark Plug, Clutch Kit, Side Mirror"""),
        _phrases("""chrome wheels, a sunroof, black rims, a red stripe, leather seats, tinted windows, a large grille,
        round headlights, a spoiler, white walls, two doors, a roof rack, a wide body, the hood open, a license plate"""),
        _phrases("""parked on a street, parked in a lot, driving down the road, driving on a track, displayed at a show,
        sitting in a garage, parked in front of a building, parked on the grass, racing around a corner, shown from the side"""),
    ),
    "paintings": Domain(
        "artwork",
        _phrases("""painting, drawing, sketch, watercolor, portrait, abstract painting, mural, print, illustration, sculpture,
        poster, engraving, oil painting, statue, collage, canvas"""),
        _phrases("""Oil Painting, Watercolor, Giclee Print, Canvas Art, Art Print, Lithograph, Etching, Framed Print, Poster,
        Sketch, Portrait, Still Life, Landscape, Wall Art, Mural, Woodcut, Drawing, Limited Edition Print, Sculpture, Bronze
        Statue, Illustration, Engraving, Pastel, Photograph, Triptych, Self Portrait, Screen Print, Original Acrylic"""),
        _phrases("""two people, a woman in a blue dress, trees and a lake, flowers in a vase, boats in the harbor, a man with a
        hat, a bowl of fruit, bright colors, horses in a field, a cloudy sky, a small village, bold brush strokes,
        geometric shapes, a child with a dog, angels, ships at sea, a winter scene, red poppies"""),
        _phrases("""hanging on a wall, shown in a frame, displayed in a museum, leaning on an easel, seen up close,
        mounted on a white wall, hanging above a couch, signed in the corner"""),
    ),
    "food": Domain(
        "food",
        _phrases("""cake, bowl of soup, plate of pasta, salad, sandwich, pizza, cup of coffee, pie, loaf of bread, bowl of rice,
        plate of food, stack of pancakes, burger, dessert, bottle of wine, jar of jam, cookie, piece of meat, smoothie,
        cupcake, tray of cookies, glass of juice, bowl of noodles, piece of fish, cocktail, box of chocolates"""),
        _phrases("""Chocolate Cake, Chicken Soup, Apple Pie, Banana Bread, Beef Stew, Vegetable Curry, Lemon Tart, Pasta Salad,
        Fried Rice, Fish Tacos, Pumpkin Muffins, Garlic Bread, Blueberry Pancakes, Cheese Fondue, Roast Lamb, Potato Gratin,
        Ice Cream, Oatmeal Cookies, Strawberry Smoothie, Green Tea, Red Wine, Craft Beer, Olive Oil, Hot Sauce, Granola Bars,
        Spinach Quiche, Mushroom Risotto, Caesar Salad, Lentil Dip, Peanut Butter Brownies, Dark Chocolate, Wedding Cake"""),
        _phrases("""fresh herbs, whipped cream, strawberries on top, melted cheese, chopped nuts, a side of vegetables, sliced
        lemons, a spoon, chocolate sauce, green onions, sesame seeds, tomatoes and basil, white frosting, a fork and knife,
        powdered sugar, a slice of lime, roasted potatoes, mint leaves, blueberries, black olives"""),
        _phrases("""sitting on a plate, served in a bowl, sitting on a wooden table, cooling on a rack, cut into pieces, served
        on a white plate, placed on a cutting board, topped with cream, shown on a kitchen counter, being poured into a glass"""),
    ),
    "fashion": Domain(
        "product",
        _phrases("""dress, jacket, shirt, pair of shoes, hat, bag, scarf, skirt, coat, sweater, handbag, pair of boots, t-shirt,
        suit, pair of jeans, hoodie, backpack, pair of sunglasses, swimsuit, belt, sneaker, pair of sandals, wallet, tie,
        blouse, costume, wedding dress, cap, pair of gloves, pair of socks"""),
        _phrases("""Evening Gown, Leather Jacket, Maxi Dress, Denim Shirt, Running Shoes, Ankle Boots, Tote Bag, Wool Scarf,
        Pencil Skirt, Trench Coat, Cardigan, Crossbody Bag, Polo Shirt, Skinny Jeans, Hoodie, Backpack, Sunglasses, Bikini Top,
        High Heels, Baseball Cap, Wedding Dress, Pajama Set, Rain Boots, Swim Shorts, Cargo Pants, Graphic Tee, Sweatshirt,
        Clutch, Loafers, Beanie, Vest, Jumpsuit, Leggings, Costume, Bow Tie, Sandals, Slippers, Apron, Long Sleeve Top"""),
        _phrases("""long sleeves, a floral pattern, gold buttons, a hood, a zipper, white stripes, a high neck, a leather strap,
        lace details, a belt at the waist, black soles, two pockets, a round collar, a logo on the front, polka dots, ruffles,
        a v neck, an open back, a plaid pattern, a bow"""),
        _phrases("""worn by a woman, worn by a man, hanging on a rack, shown on a white background, worn by a model, displayed
        on a mannequin, lying on a bed, shown from the back, worn with jeans, folded on a table"""),
    ),
    "furniture": Domain(
        "product",
        _phrases("""chair, table, sofa, couch, desk, bed, bookshelf, cabinet, dresser, bench, stool, armchair, dining table,
        coffee table, nightstand, wardrobe, lamp, mirror, rug, shelf, bathtub, sink, faucet, curtain, mattress, crib"""),
        _phrases("""Armchair, Dining Table, Coffee Table, Bookcase, Bar Stool, Corner Sofa, TV Stand, Sideboard, Office Chair,
        Bunk Bed, Nightstand, Wardrobe, Console Table, Floor Lamp, Rocking Chair, Chest of Drawers, Vanity Unit, Bench,
        Recliner, Shower Curtain, Area Rug, Wall Mirror, Ceiling Light, Kitchen Island, Storage Cabinet, Computer Desk,
        Patio Set, Bathroom Faucet, Headboard, Ottoman, Day Bed, Garden Bench, Pendant Lamp, Wall Shelf"""),
        _phrases("""wooden legs, three drawers, a glass top, four chairs, white cushions, metal legs, a round base, two shelves,
        a curved back, gold handles, a drawer and a shelf, black knobs, a striped pattern, tufted buttons, sliding doors"""),
        _phrases("""standing in a living room, placed next to a window, shown in a bedroom, standing on a wooden floor, set
        against a white wall, standing on a rug, shown with the doors open, standing in a dining room, placed in a corner"""),
    ),
    "gadgets": Domain(
        "product",
        _phrases("""phone, laptop, camera, watch, tablet, keyboard, pair of headphones, speaker, television, remote control,
        computer, printer, monitor, charger, drone, battery, radio, cell phone, mouse, lens, microphone, vacuum cleaner, drill,
        coffee maker, fan, blender, circuit board, cable, flashlight, video game controller, guitar, amplifier, knife"""),
        _phrases("""Smartphone, Laptop, Digital Camera, Bluetooth Speaker, Gaming Mouse, Wireless Headphones, LED TV, Tablet
        Case, Power Bank, Hard Drive, Smart Watch, USB Cable, Wall Charger, Memory Card, Cordless Drill, Vacuum Cleaner,
        Coffee Machine, Air Fryer, Projector, Router, Zoom Lens, Tripod, Replacement Battery, Screen Protector, Keyboard,
        Electric Guitar, Drum Kit, Hand Mixer, Washing Machine, Water Pump, Pocket Knife, Torch, Soldering Iron, Phone Case"""),
        _phrases("""a large screen, a black strap, two buttons, a silver case, a blue light, a long cable, a touch screen, three
        lenses, a round dial, a wooden handle, a red button, a clear cover, four legs, a digital display, an antenna"""),
        _phrases("""sitting on a desk, shown on a white background, held in a hand, plugged into a wall, sitting in a box,
        displayed next to its package, lying on a table, shown from the front, connected to a computer, mounted on a wall"""),
    ),
    "jewellery": Domain(
        "product",
        _phrases("""ring, necklace, pair of earrings, bracelet, pendant, brooch, wristwatch, charm, chain, gold ring, silver
        necklace, engagement ring, bead, coin, medal, crown, key chain, pin"""),
        _phrases("""Engagement Ring, Pendant Necklace, Hoop Earrings, Charm Bracelet, Wedding Band, Stud Earrings, Cufflinks,
        Brooch, Anklet, Bangle, Chronograph Watch, Signet Ring, Locket, Tiara, Choker, Lapel Pin, Pearl Earrings, Beads, Silver
        Coin, Commemorative Medal, Diamond Ring, Automatic Watch, Body Chain, Keychain"""),
        _phrases("""a diamond, blue stones, white pearls, a heart charm, a green stone, a leather band, small crystals, an
        engraved name, a cross, two hearts, a flower design, purple beads, a black face, a twisted band"""),
        _phrases("""shown on a white background, sitting in a box, worn on a wrist, displayed on a stand, lying on a black
        cloth, hanging from a chain, worn on a finger, held by two fingers"""),
    ),
    "decor": Domain(
        "product",
        _phrases("""vase, pillow, candle, clock, picture frame, mug, blanket, sticker, flag, sign, ornament, wreath, basket,
        toy, doll, puzzle, card, balloon, quilt, plate, bottle, box, piece of fabric, stamp, sewing pattern, teddy bear,
        invitation, banner, notebook, ball of yarn, figurine, wallpaper, tile"""),
        _phrases("""Throw Pillow, Wall Clock, Scented Candle, Coffee Mug, Baby Blanket, Vinyl Sticker, Christmas Ornament, Door
        Wreath, Storage Basket, Plush Toy, Action Figure, Jigsaw Puzzle, Greeting Card, Party Balloons, Quilt Pattern, Water
        Bottle, Gift Box, Cotton Fabric, Stamp Set, Sewing Pattern, Photo Frame, Wallpaper, Mosaic Tile, Bath Towel, Wedding
        Invitation, Banner, Notebook, Yarn, Cutting Die, Washi Tape, Scrapbook Paper, Garden Gnome, Cushion Cover, Tea Set,
        Model Kit, Building Blocks, Party Favors, Dinner Plate, Paper Towel Holder, Metal Sign"""),
        _phrases("""a floral design, the words happy birthday, a cat on it, hearts and stars, red ribbons, a snowman, a funny
        quote, a butterfly print, gold letters, leaves and berries, a skull, blue and white stripes, an elephant, tassels"""),
        _phrases("""sitting on a table, hanging on a wall, shown on a white background, sitting on a couch, placed on a shelf,
        wrapped in plastic, held by a child, lying on a bed, displayed in a window, hanging from a tree"""),
    ),
    "animals": Domain(
        "animal",
        _phrases("""dog, cat, horse, bird, cow, sheep, elephant, lion, tiger, bear, rabbit, duck, owl, fox, deer, frog, fish,
        turtle, butterfly, bee, spider, monkey, giraffe, zebra, puppy, kitten, goat, pig, chicken, eagle, whale, shark,
        dolphin, penguin, lizard, snake, squirrel, mouse, wolf, parrot, leopard, seal"""),
        _phrases("""Puppy, Kitten, Stallion, Warbler, Cow, Lamb, Elephant Calf, Leopard Cub, Tiger, Brown Bear, Bunny, Duck,
        Snowy Owl, Red Fox, Deer, Tree Frog, Clownfish, Sea Turtle, Monarch Butterfly, Honey Bee, Jumping Spider, Monkey,
        Giraffe, Zebra, Goat, Rooster, Eagle, Humpback Whale, Penguin, Gecko, Grey Wolf, Parrot, Heron, Kingfisher, Terrier,
        Retriever, Spaniel, Shepherd Dog, Pony, Bulldog"""),
        _phrases("""a red collar, white spots, large ears, spread wings, a long tail, blue eyes, its mouth open, its tongue out,
        brown fur, black stripes, a ball, big horns, orange feathers, a fish in its mouth, two babies"""),
        _phrases("""standing in the grass, sitting on a branch, lying on the floor, running through a field, swimming in the
        water, sleeping on a couch, looking at the camera, flying over the water, eating leaves, perched on a tree, walking in
        the snow, playing with a toy, standing on a rock, drinking from a pond"""),
    ),
    "places": Domain(
        "place",
        _phrases("""street, city, beach, river, bridge, harbor, village, park, garden, castle, town square, market, boat, road,
        train station, island, map, airport, train, ship, skyline, canal, lighthouse, fountain, ferry, airplane"""),
        _phrases("""Old Town, Harbour, Beach Resort, River Walk, Bridge, Market Square, Botanical Garden, Castle, Train Station,
        National Park, Bay, Island, Lighthouse, Boardwalk, Main Street, Canal, Cathedral Square, Fish Market, Viewpoint,
        Waterfront, Ferry Terminal, Airport, Camp Site, Golf Course, Marina, Palace Gardens, Tram, Steam Train, Cruise Ship,
        Hot Springs, Ski Resort, City Map, Walking Tour, Trail"""),
        _phrases("""many people, colorful buildings, palm trees, a clock tower, small boats, blue water, tall buildings, a stone
        wall, cars on the road, a red roof, cloudy skies, street lights, a long pier, bicycles, a statue, white sand"""),
        _phrases("""seen from above, lined with trees, lit up at night, crowded with people, surrounded by buildings, viewed
        from the water, covered in snow, photographed at sunset, stretching into the distance, reflected in the water"""),
    ),
    "buildings": Domain(
        "place",
        _phrases("""house, building, church, tower, hotel, living room, kitchen, bathroom, bedroom, office, restaurant, museum,
        temple, barn, cottage, swimming pool, stairs, apartment building, room, shop, backyard, porch, garage, school"""),
        _phrases("""Apartment, Family Home, Hotel, Country House, Church, Bell Tower, Townhouse, Villa, Log Cabin, Penthouse,
        Office Building, Museum, Temple, Barn, Cottage, Mansion, Farmhouse, Guest House, Studio Flat, Bungalow, Chapel, Town
        Hall, Library, Primary School, Restaurant, Loft, Kitchen Remodel, Master Bedroom, Bathroom Renovation, Living Room,
        Swimming Pool, Courtyard, Beach House, Condo, Monastery, Mosque"""),
        _phrases("""large windows, white walls, a red door, a green lawn, a balcony, brick walls, wooden floors, a stone
        fireplace, tall columns, a pool, a garage, black shutters, granite counters, two beds, a chandelier, a tiled roof"""),
        _phrases("""surrounded by trees, seen from the street, built of brick, standing on a hill, lit by lamps, decorated in
        white, overlooking the sea, standing next to a road, filled with furniture, photographed from the garden"""),
    ),
    "nature": Domain(
        "place",
        _phrases("""mountain, lake, waterfall, forest, sunset, field of flowers, tree, flower, sky, desert, valley, canyon,
        rose, plant, cactus, mushroom, rainbow, beach at sunset, snowy mountain, pond, leaf, garden, cave, glacier, tulip"""),
        _phrases("""Falls, Peak, Lake, Forest, Canyon, Glacier, Valley, Sunset, Sunrise, Northern Lights, Wildflowers, Orchid,
        Rose, Lavender Field, Oak Tree, Cherry Blossom, Maple Leaf, Succulent, Rhododendron, Hydrangea, Dahlia, Cliffs, Dunes,
        Reef, Creek, Meadow, Nature Reserve, Volcano, Milky Way, Autumn Leaves, Fern, Palm Tree, Sunflower"""),
        _phrases("""pink petals, green leaves, snow on top, clear blue water, orange clouds, tall trees, yellow flowers, rocks
        and moss, a wooden bridge, stars in the sky, fog, white blossoms, red berries, a dirt path"""),
        _phrases("""growing in a garden, seen from the air, reflected in the lake, surrounded by mountains, blooming in the sun,
        covered with snow, glowing at sunset, growing in a pot, rising above the clouds, lit by the sun"""),
    ),
    "people": Domain(
        "person",
        _phrases("""man, woman, man in a suit, woman in a dress, young man, young woman, man with glasses, woman with long hair,
        group of people, boy, girl, old man, couple, family, man with a beard, woman in black, man in uniform, child, baby,
        bride and groom, crowd of people, two women, two men, three men, woman in a hat, man in a blue shirt"""),
        _phrases("""singer, actor, actress, director, president, senator, mayor, chef, author, artist, photographer, model,
        professor, founder, CEO, journalist, designer, minister, lawyer, teacher, guitarist, drummer, comedian, activist,
        architect, engineer, governor, producer, blogger, candidate, lead singer, chairman, prime minister, police chief"""),
        _phrases("""a microphone, a guitar, flowers, a sign, a book, a glass of wine, sunglasses, a red tie, a black jacket, a
        white shirt, a bouquet, an award, a hat, a camera, a big smile, blond hair"""),
        _phrases("""standing in front of a building, posing for a photo, sitting at a table, speaking into a microphone, holding
        a sign, smiling at the camera, walking down the street, playing the guitar, standing on a red carpet, shaking hands,
        sitting on a chair, standing at a podium, wearing a black suit, looking at a phone, talking to reporters"""),
    ),
    "sport": Domain(
        "person",
        _phrases("""football player, soccer player, tennis player, basketball player, baseball player, hockey player, golfer,
        cyclist, runner, swimmer, boxer, surfer, skier, group of players, team, man on a bike, woman with a racket, coach,
        race car driver, gymnast, skateboarder, rider on a horse"""),
        _phrases("""striker, goalkeeper, quarterback, pitcher, head coach, captain, midfielder, guard, forward, defender, wide
        receiver, sprinter, champion, manager, rider, driver, point guard, shortstop, batsman, bowler, winger, wrestler"""),
        _phrases("""a ball, a trophy, a racket, a bat, a helmet, a medal, a red jersey, a white uniform, a flag, a golf club,
        a yellow shirt, a number on the back, boxing gloves, a stick"""),
        _phrases("""running with the ball, throwing the ball, celebrating on the field, jumping in the air, hitting a ball,
        holding a trophy, kicking the ball, standing on the field, riding on a track, waving to the crowd, shooting a ball,
        sliding into base, crossing the finish line, sitting on the bench"""),
    ),
    "media": Domain(
        "media",
        _phrases("""book cover, album cover, movie poster, poster, magazine cover, book, comic book, flyer, cover, DVD cover,
        video game cover, newspaper, logo, screenshot, page, diagram, chart, slide, banner, icon, ticket"""),
        _phrases("""Audiobook, Paperback, Hardcover, Vinyl LP, CD, DVD, Soundtrack, Box Set, Comic, Novel, Cookbook, Magazine,
        Movie Poster, Sheet Music, Ebook, Blu-ray, Single, Live Album, Podcast, Textbook, Workbook, Coloring Book, Video Game,
        Season 2, Volume 3, Part 1, Special Edition, Infographic, Presentation, Logo, Flyer, Business Card, Book Review"""),
        _phrases("""a woman on the front, white letters, a man with a gun, a picture of a city, a black background, bold text, a
        dragon, stars and planets, a photo of a band, a red title, two people kissing, a dog on the cover, a yellow circle"""),
        _phrases("""shown on a white background, printed in black and white, lying on a table, displayed on a screen, held in
        two hands, featuring bold text, leaning against a wall, shown with its title"""),
    ),
    "events": Domain(
        "event",
        _phrases("""crowd of people, stage, band, group of people, parade, fire, protest, wedding, party, concert, ceremony,
        meeting, police car, conference, group of dancers, row of flags, fireworks display, classroom, group of soldiers,
        group of children, marching band, table with food"""),
        _phrases("""Music Festival, Wedding, Awards Ceremony, Charity Gala, Film Premiere, Press Conference, Book Launch, Trade
        Fair, Marathon, Parade, Fashion Week, Open Day, Graduation, Birthday Party, Protest March, Food Festival, Science
        Fair, Auction, Workshop, Summit, Exhibition, Carnival, Book Fair, Summer Camp, Annual Meeting, Opening Ceremony,
        Championship, Grand Prix, Memorial Service, Reunion, Baby Shower, Charity Run, Election, Job Fair"""),
        _phrases("""balloons, flags, bright lights, signs, tents, flowers, candles, colorful costumes, a large screen, musical
        instruments, red chairs, umbrellas, police officers, a banner"""),
        _phrases("""gathered on a street, standing on stage, sitting in a hall, marching down the road, dancing under the
        lights, waiting in line, gathered around a table, filling the square, standing outside a building, sitting in rows"""),
    ),
}
# Some domains fill more of the web than others.
DOMAIN_NAMES = tuple(DOMAINS)
